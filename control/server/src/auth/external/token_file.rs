//! Static tokens: a file of comma-separated values, `token,user,uid,"group1,group2"` (upstream's `--token-auth-file`).

use std::collections::HashMap;
use std::path::Path;

use super::{AuthenticationError, Identity, read};

/// The tokens, read once.
pub(super) struct TokenFile(HashMap<String, Identity>);

impl TokenFile {
    pub(super) fn open(path: &Path) -> Result<Self, AuthenticationError> {
        let fail = |why: String| AuthenticationError::Content {
            what: format!("the token file {}", path.display()),
            why,
        };
        let text = String::from_utf8(read(path)?).map_err(|error| fail(error.to_string()))?;
        Self::parse(&text).map_err(fail)
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut all = HashMap::new();
        for (i, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let fields = fields(line).ok_or_else(|| format!("line {}: a quote is open", i + 1))?;
            let [token, user, uid, groups @ ..] = &fields[..] else {
                return Err(format!(
                    "line {}: token file must have at least 3 columns (token, user name, user uid), found {}",
                    i + 1,
                    fields.len()
                ));
            };
            if token.is_empty() {
                return Err(format!("line {}: the token is empty", i + 1));
            }
            let groups = groups.first().map(String::as_str).unwrap_or_default().split(',');
            let groups = groups.map(str::trim).filter(|g| !g.is_empty()).map(str::to_owned);
            let identity = Identity {
                user: user.clone(),
                uid: uid.clone(),
                groups: groups.collect(),
                ..Identity::default()
            };
            if all.insert(token.clone(), identity).is_some() {
                tracing::warn!(
                    line = i + 1,
                    "the token file has a token twice; the later one holds"
                );
            }
        }
        Ok(Self(all))
    }

    pub(super) fn find(&self, token: &str) -> Option<Identity> {
        self.0.get(token).cloned()
    }
}

/// The fields of a line (RFC 4180); none if a quote is not closed.
fn fields(line: &str) -> Option<Vec<String>> {
    let mut all = vec![String::new()];
    let mut chars = line.chars().peekable();
    let mut quoted = false;
    while let Some(char) = chars.next() {
        let field = all.last_mut()?;
        match char {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => all.push(String::new()),
            other => field.push(other),
        }
    }
    (!quoted).then_some(all)
}
