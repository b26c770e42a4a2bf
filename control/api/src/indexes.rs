//! Sets of completion indexes of a Job, as its status and its success policy write them: `0,2-4,9`.

use std::fmt;

/// Indexes in ascending order, as ranges that neither overlap nor touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexes {
    /// First and last of each range.
    ranges: Vec<(i64, i64)>,
}

impl Indexes {
    /// Reads text; every index must be below `completions`.
    ///
    /// # Errors
    /// Upstream's words for what is wrong.
    pub fn parse(text: &str, completions: i64) -> Result<Self, String> {
        let mut indexes = Self::default();
        if text.is_empty() {
            return Ok(indexes);
        }
        let mut previous: Option<i64> = None;
        for part in text.split(',') {
            let (first, last) = range(part, completions)?;
            if let Some(previous) = previous.filter(|previous| *previous >= first) {
                return Err(format!(
                    "non-increasing order, previous: {previous}, current: {first}"
                ));
            }
            previous = Some(last);
            indexes.push(first, last);
        }
        Ok(indexes)
    }

    /// Reads what a status says, leaving out what is not below `completions`: a Job may have become smaller.
    pub fn read(text: &str, completions: i64) -> Self {
        let mut all = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let number = |text: &str| text.parse::<i64>().ok();
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Some(first), Some(last)) = (number(first), number(last))
                && first < completions
            {
                all.push(first, last.min(completions - 1));
            }
        }
        all
    }

    /// The set of these.
    pub fn of(indexes: impl IntoIterator<Item = i64>) -> Self {
        let mut sorted: Vec<i64> = indexes.into_iter().collect();
        sorted.sort_unstable();
        let mut set = Self::default();
        for index in sorted {
            set.push(index, index);
        }
        set
    }

    fn push(&mut self, first: i64, last: i64) {
        match self.ranges.last_mut() {
            Some(range) if first <= range.1 + 1 => range.1 = range.1.max(last),
            _ => self.ranges.push((first, last)),
        }
    }

    /// Those in either.
    pub fn union(&self, other: &Self) -> Self {
        let mut ranges: Vec<_> = self.ranges.iter().chain(&other.ranges).copied().collect();
        ranges.sort_unstable();
        let mut all = Self::default();
        for (first, last) in ranges {
            all.push(first, last);
        }
        all
    }

    /// Whether it is one of them.
    pub fn has(&self, index: i64) -> bool {
        let at = self.ranges.partition_point(|(_, last)| *last < index);
        self.ranges.get(at).is_some_and(|(first, _)| *first <= index)
    }

    /// How many there are.
    pub fn count(&self) -> i64 {
        self.ranges.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// How many there are in both.
    pub fn count_common(&self, other: &Self) -> i64 {
        let (mut a, mut b, mut count) = (0, 0, 0);
        while let (Some(one), Some(two)) = (self.ranges.get(a), other.ranges.get(b)) {
            count += (one.1.min(two.1) - one.0.max(two.0) + 1).max(0);
            if one.1 < two.1 { a += 1 } else { b += 1 }
        }
        count
    }

    /// Those from 0 to `end` (exclusive) that are none of them, in order: ranges, not a walk over all there are.
    pub fn gaps(&self, end: i64) -> impl Iterator<Item = i64> + '_ {
        let starts = std::iter::once(0).chain(self.ranges.iter().map(|(_, last)| last + 1));
        let ends = self.ranges.iter().map(|(first, _)| *first).chain([end]);
        starts.zip(ends).flat_map(move |(from, to)| from..to.min(end))
    }
}

impl fmt::Display for Indexes {
    /// Two neighbours are written apart, as upstream writes them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.ranges.iter().enumerate() {
            f.write_str(if i > 0 { "," } else { "" })?;
            match last - first {
                0 => write!(f, "{first}")?,
                1 => write!(f, "{first},{last}")?,
                _ => write!(f, "{first}-{last}")?,
            }
        }
        Ok(())
    }
}

fn range(text: &str, completions: i64) -> Result<(i64, i64), String> {
    let parts: Vec<&str> = text.split('-').collect();
    if parts.len() > 2 {
        return Err(format!(
            "the fragment {text:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        ));
    }
    let read = |text: &str| {
        let index: i64 = text
            .parse()
            .map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        if index >= completions {
            return Err(format!("too large index: {text:?}"));
        }
        Ok(index)
    };
    let first = read(parts[0])?;
    let Some(last) = parts.get(1).map(|last| read(last)).transpose()? else {
        return Ok((first, first));
    };
    if first >= last {
        return Err(format!("non-increasing order, previous: {first}, current: {last}"));
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_in_and_out() {
        for (text, written, count) in [
            ("", "", 0),
            ("0", "0", 1),
            ("0,1", "0,1", 2),
            ("0-1,2", "0-2", 3),
            ("1,3-5,7-9", "1,3-5,7-9", 7),
        ] {
            let set = Indexes::parse(text, 10).expect(text);
            assert_eq!((set.to_string().as_str(), set.count()), (written, count), "{text}");
            assert_eq!(Indexes::read(text, 10), set);
        }
        for (text, why) in [
            ("1-2-3", "the fragment \"1-2-3\" violates"),
            ("x", "cannot convert string to integer for index: \"x\""),
            ("10", "too large index: \"10\""),
            ("3-1", "non-increasing order, previous: 3, current: 1"),
            ("3,3", "non-increasing order, previous: 3, current: 3"),
        ] {
            let found = Indexes::parse(text, 10).expect_err(text);
            assert!(found.starts_with(why), "{text}: {found}");
        }
        assert_eq!(Indexes::read("2,5-20", 7).to_string(), "2,5,6", "the Job became smaller");
    }

    #[test]
    fn sets() {
        let set = Indexes::of([4, 1, 2, 9]);
        assert_eq!(set.to_string(), "1,2,4,9");
        assert_eq!(set.gaps(11).collect::<Vec<_>>(), [0, 3, 5, 6, 7, 8, 10]);
        assert_eq!(set.gaps(3).collect::<Vec<_>>(), [0]);
        assert_eq!((0..11).filter(|i| set.has(*i)).collect::<Vec<_>>(), [1, 2, 4, 9]);
        let other = Indexes::of([2, 3, 4, 5]);
        assert_eq!(set.union(&other).to_string(), "1-5,9");
        assert_eq!(set.count_common(&other), 2);
    }
}
