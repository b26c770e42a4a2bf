use super::config::Configuration;
use super::token_file::TokenFile;

fn parse(jwt: &str) -> Result<(), String> {
    let text =
        format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n{jwt}");
    Configuration::parse(&text).map(drop)
}

#[test]
fn what_is_wrong_with_a_configuration_is_told_in_upstreams_words() {
    let check = |text: &str, expected: &str| {
        let Err(why) = parse(text) else { panic!("{text}") };
        assert!(why.contains(expected), "{why}");
    };
    let issuer = |issuer: &str, expected: &str| {
        check(
            &format!(
                "jwt: [{{issuer: {{{issuer}}}, claimMappings: {{username: {{claim: sub, prefix: ''}}}}}}]"
            ),
            expected,
        );
    };
    issuer("audiences: [a]", "jwt[0].issuer.url: Required value: URL is required");
    issuer("url: 'http://x', audiences: [a]", "URL scheme must be https");
    issuer("url: 'https://a@x', audiences: [a]", "must not contain a username or password");
    issuer("url: 'https://x'", "at least one jwt[0].issuer.audiences is required");
    issuer("url: 'https://x', audiences: [a, b]", "audienceMatchPolicy must be MatchAny");
    issuer(
        "url: 'https://x', discoveryURL: 'https://x/', audiences: [a]",
        "discoveryURL must be different from URL",
    );
    let jwt = |more: &str, expected: &str| {
        check(
            &format!("jwt: [{{issuer: {{url: 'https://x', audiences: [a]}}, {more}}}]"),
            expected,
        );
    };
    jwt(
        "claimMappings: {}",
        "jwt[0].claimMappings.username: Required value: claim or expression is required",
    );
    jwt("claimMappings: {username: {claim: sub}}", "prefix is required when claim is set");
    jwt(
        "claimMappings: {username: {claim: sub, prefix: '', expression: claims.sub}}",
        "claim and expression can't both be set",
    );
    jwt(
        "claimMappings: {username: {expression: 'claims.'}}",
        "jwt[0].claimMappings.username.expression: Invalid value: \"claims.\": compilation failed",
    );
    jwt(
        "claimMappings: {username: {expression: claims.email}}",
        "claims.email_verified must be used",
    );
    let username = "claimMappings: {username: {claim: sub, prefix: ''}";
    jwt(
        &format!("{username}}}, claimValidationRules: [{{}}]"),
        "claimValidationRules[0]: Required value: claim or expression is required",
    );
    jwt(
        &format!("{username}}}, claimValidationRules: [{{expression: claims.sub}}]"),
        "must evaluate to bool",
    );
    jwt(
        &format!("{username}}}, userValidationRules: [{{expression: user.nonsense}}]"),
        "userValidationRules[0].expression: Invalid value",
    );
    jwt(
        &format!("{username}, extra: [{{key: a.k8s.io/x, valueExpression: claims.x}}]}}"),
        "reserved for Kubernetes use",
    );
    jwt(
        &format!("{username}, extra: [{{key: x, valueExpression: claims.x}}]}}"),
        "must be a domain-prefixed path",
    );
    let twice = "{issuer: {url: 'https://x', audiences: [a]}, claimMappings: {username: {claim: sub, prefix: ''}}}";
    check(&format!("jwt: [{twice}, {twice}]"), "jwt[1].issuer.url: Duplicate value: \"https://x\"");
    check(
        "anonymous: {enabled: false, conditions: [{path: /a}]}",
        "enabled should be set to true when conditions are defined",
    );
    check("nonsense: 1", "unknown field");
    parse(&format!("jwt: [{twice}]")).unwrap();
}

#[test]
fn token_files_are_comma_separated() {
    let check = |text: &str, expected: Result<(&str, &[&str]), &str>| {
        let read = TokenFile::parse(text).map(|it| it.find("t").unwrap_or_default());
        match expected {
            Ok((user, groups)) => {
                let identity = read.unwrap();
                assert_eq!(
                    (identity.user.as_str(), identity.groups.as_slice()),
                    (user, &groups.iter().map(|g| g.to_string()).collect::<Vec<_>>()[..])
                );
            }
            Err(why) => assert!(read.unwrap_err().contains(why)),
        }
    };
    check("t,u,1", Ok(("u", &[])));
    check("\n# c\nt, u ,1,\"a, b\"\n", Ok((" u ", &["a", "b"])));
    check("t,\"a,\"\"b\"\"\",1,x", Ok(("a,\"b\"", &["x"])));
    check("x,u,1", Ok(("", &[])));
    check("t,u", Err("line 1: token file must have at least 3 columns"));
    check("t,u,\"1", Err("a quote is open"));
    check(",u,1", Err("the token is empty"));
}
