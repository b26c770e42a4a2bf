//! Selectors of labels and fields.

use std::collections::BTreeMap;

use coracle_api::{FieldSelector, LabelSelector, Object, kinds};
use coracle_fuzz::{bytes, cases};
use serde_json::json;

#[test]
fn label_selectors() {
    let good: &[&[u8]] =
        &[b"a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1,m<2", b"a.example.com/b == c", b""];
    let words =
        [" ", ",", "=", "==", "!=", "!", "in", "notin", "(", ")", "a", ">", "<", "a in (b,", "\t"];
    bytes("label-selectors", good, &words, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let Ok(read) = LabelSelector::parse(text) else { return };
        let again = LabelSelector::parse(&read.to_string()).expect("its own text");
        assert_eq!(again, read, "{text:?} is written {read}");
    });
}

/// What a requirement means, said once more.
fn meets(labels: &BTreeMap<String, String>, key: &str, operator: &str, values: &[&str]) -> bool {
    let value = labels.get(key).map(String::as_str);
    match operator {
        "=" | "in" => value.is_some_and(|v| values.contains(&v)),
        "!=" | "notin" => value.is_none_or(|v| !values.contains(&v)),
        "" => value.is_some(),
        _ => value.is_none(),
    }
}

#[test]
fn label_selectors_select() {
    cases("label-selection", |random| {
        let (keys, all) = (["a", "b", "x.y/z"], ["", "1", "two"]);
        let labels: BTreeMap<String, String> = (0..random.below(4))
            .map(|_| ((*random.pick(&keys)).to_owned(), (*random.pick(&all)).to_owned()))
            .collect();
        let (mut text, mut expected) = (Vec::new(), true);
        for _ in 0..random.below(4) {
            let (key, operator) =
                (*random.pick(&keys), *random.pick(&["=", "!=", "in", "notin", "", "!"]));
            let values: Vec<&str> = match operator {
                "=" | "!=" => vec![*random.pick(&all)],
                "in" | "notin" => (0..random.below(3) + 1).map(|_| *random.pick(&all)).collect(),
                _ => Vec::new(),
            };
            expected &= meets(&labels, key, operator, &values);
            text.push(match operator {
                "=" | "!=" => format!("{key}{operator}{}", values[0]),
                "in" | "notin" => format!("{key} {operator} ({})", values.join(",")),
                "" => key.to_owned(),
                _ => format!("!{key}"),
            });
        }
        let text = text.join(",");
        let read = LabelSelector::parse(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(read.matches(&labels), expected, "{text} on {labels:?}");
    });
}

#[test]
fn field_selectors() {
    let good: &[&[u8]] = &[
        b"metadata.name=a,status.phase!=Running",
        b"spec.nodeName==b",
        b"metadata.name=a\\,b\\=c\\\\",
    ];
    let words = [
        ",",
        "=",
        "==",
        "!=",
        "\\",
        "\\,",
        "\\=",
        "metadata.name",
        "metadata.namespace",
        "type",
        "a",
    ];
    let pod = |name: &str| {
        let tree = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {}});
        Object::from_value(&kinds::POD, &tree).expect("a Pod")
    };
    let pods = ["a", "b", "a,b=c\\"].map(pod);
    bytes("field-selectors", good, &words, |input| {
        let Ok(text) = std::str::from_utf8(input) else { return };
        let named = FieldSelector::named(text);
        let Ok(read) = FieldSelector::parse(text, &kinds::POD) else { return };
        for pod in &pods {
            // Whoever may see the one of that name sees no other.
            if let Some(name) = &named
                && read.matches(pod)
            {
                assert_eq!(pod.meta.name, *name, "{text}");
            }
        }
    });
}
