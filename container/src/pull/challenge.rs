//! What a registry wants before it answers (RFC 9110, section 11.6.1; the distribution
//! specification's token authentication).

/// A challenge that can be met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A user and a password.
    Basic,
    /// A token of another server.
    Bearer { realm: String, service: Option<String> },
}

impl Challenge {
    /// Reads the value of WWW-Authenticate.
    pub(super) fn parse(value: &str) -> Option<Challenge> {
        let (scheme, rest) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service) = (None, None);
        for (name, value) in parameters(rest) {
            match name.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = Some(value),
                _ => {}
            }
        }
        Some(Challenge::Bearer { realm: realm?, service })
    }
}

/// `name="value"` or `name=value`, with commas between.
fn parameters(mut rest: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while let Some((name, after)) = rest.trim_start_matches([' ', ',']).split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.push((name.trim().to_owned(), value.trim().to_owned()));
        rest = after;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_parse_of_bearer_finds_realm_and_service() {
        let value =
            r#"Bearer realm="https://a.org/t?x=1,2",service="reg",scope="repository:a:pull""#;
        let expected = Challenge::Bearer {
            realm: "https://a.org/t?x=1,2".into(),
            service: Some("reg".into()),
        };
        assert_eq!(Challenge::parse(value), Some(expected));
        let expected = Challenge::Bearer { realm: "r".into(), service: None };
        assert_eq!(Challenge::parse("bearer error=x, realm=r"), Some(expected));
    }

    #[test]
    fn test_parse_of_anything_else_returns_what_it_is() {
        assert_eq!(Challenge::parse("Basic realm=\"x\""), Some(Challenge::Basic));
        for value in ["", "Bearer", "Bearer service=x", "Negotiate", "Bearer realm", "="] {
            assert_eq!(Challenge::parse(value), None, "{value}");
        }
    }
}
