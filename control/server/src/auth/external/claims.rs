//! From a token's claims to a caller: mappings, and rules that must hold (`k8s.io/apiserver/plugin/pkg/authenticator/token/oidc`).

use std::sync::{Arc, LazyLock};

use coracle_cel::{
    Activation, BUDGET, Decl, Env, Identity as ListIdentity, Program, Shape, Type, Val,
};
use serde_json::{Map, Value, json};

use super::Identity;

/// What an issuer's claims mean.
pub(super) struct Claims {
    pub(super) username: Mapping,
    pub(super) groups: Option<Mapping>,
    pub(super) uid: Option<Mapping>,
    pub(super) extra: Vec<(String, Program)>,
    /// Claims, with the values that they must have.
    pub(super) required: Vec<(String, String)>,
    pub(super) claim_rules: Vec<Rule>,
    pub(super) user_rules: Vec<Rule>,
}

/// Where something comes from.
pub(super) enum Mapping {
    /// A claim, and what is put before its value.
    Claim { claim: String, prefix: String },
    /// What an expression makes of the claims.
    Expression(Program),
}

/// What must be true.
pub(super) struct Rule {
    text: String,
    message: String,
    program: Program,
}

/// `user`: `authentication/v1 UserInfo`.
static USER: LazyLock<Arc<Decl>> = LazyLock::new(|| {
    let text = || Decl::of(Shape::String);
    let texts = || Decl::of(Shape::List(text(), ListIdentity::Atomic));
    Decl::object(
        "kubernetes.UserInfo",
        [
            ("username", text()),
            ("uid", text()),
            ("groups", texts()),
            ("extra", Decl::of(Shape::Map(texts()))),
        ],
    )
});

fn env_of_claims() -> Env {
    Env::new().variable("claims", Type::map(Type::String, Type::Dyn))
}

/// An expression over `claims`.
pub(super) fn compile(text: &str) -> Result<Program, String> {
    if text.is_empty() {
        return Err("Required value: expression is required".to_owned());
    }
    let program = env_of_claims().compile(text);
    program.map_err(|error| format!("Invalid value: {text:?}: {}", error.detail()))
}

impl Rule {
    pub(super) fn of_claims(text: String, message: String) -> Result<Self, String> {
        Self::of(&env_of_claims(), text, message)
    }

    pub(super) fn of_user(text: String, message: String) -> Result<Self, String> {
        Self::of(&Env::new().variable("user", USER.ty()), text, message)
    }

    fn of(env: &Env, text: String, message: String) -> Result<Self, String> {
        let program = env.compile_to(&text, &[Type::Bool]);
        let program =
            program.map_err(|error| format!("Invalid value: {text:?}: {}", error.detail()))?;
        Ok(Self { text, message, program })
    }

    /// # Errors
    /// That it does not hold.
    fn check<'a>(&'a self, activation: &Activation<'a>) -> Result<(), String> {
        let (value, _) = self.program.evaluate(activation, BUDGET);
        match value
            .map_err(|error| format!("expression '{}' resulted in error: {error}", self.text))?
        {
            Val::Bool(true) => Ok(()),
            _ if self.message.is_empty() => {
                Err(format!("validation expression '{}' failed", self.text))
            }
            _ => Err(format!("validation expression '{}' failed: {}", self.text, self.message)),
        }
    }
}

impl Claims {
    /// Whom the claims of a verified token are about.
    pub(super) fn identity(&self, claims: &Value) -> Result<Identity, String> {
        let empty = Map::new();
        let map = claims.as_object().unwrap_or(&empty);
        let user = self.username(map, claims)?;
        let groups = match &self.groups {
            None => Vec::new(),
            Some(Mapping::Claim { claim, prefix }) => match map.get(claim) {
                None => Vec::new(),
                Some(value) => {
                    let groups = strings(value).ok_or_else(|| {
                        format!("oidc: parse groups claim \"{claim}\": it is neither a string nor a list of strings")
                    })?;
                    groups.into_iter().map(|group| format!("{prefix}{group}")).collect()
                }
            },
            Some(Mapping::Expression(program)) => texts(program, claims)
                .map_err(|why| format!("oidc: error evaluating group claim expression: {why}"))?,
        };
        let uid = match &self.uid {
            None => String::new(),
            Some(Mapping::Claim { claim, .. }) => match map.get(claim) {
                None => {
                    return Err(format!("oidc: parse uid claim \"{claim}\": claim not present"));
                }
                Some(Value::String(uid)) => uid.clone(),
                Some(_) => {
                    return Err(format!("oidc: parse uid claim \"{claim}\": it is no string"));
                }
            },
            Some(Mapping::Expression(program)) => text(program, claims)
                .map_err(|why| format!("oidc: error evaluating uid claim expression: {why}"))?,
        };
        let mut identity = Identity { user, uid, groups, ..Identity::default() };
        for (key, program) in &self.extra {
            let values = texts(program, claims)
                .map_err(|why| format!("oidc: error evaluating extra claim expression: {why}"))?;
            if !values.is_empty() {
                identity.extra.insert(key.clone(), values);
            }
        }
        for (claim, wanted) in &self.required {
            match map.get(claim) {
                None => {
                    return Err(format!("oidc: required claim {claim} not present in ID token"));
                }
                Some(Value::String(found)) if found == wanted => {}
                Some(Value::String(found)) => {
                    return Err(format!(
                        "oidc: required claim {claim} value does not match. Got = {found}, want = {wanted}"
                    ));
                }
                Some(_) => return Err(format!("oidc: parse claim {claim}: it is no string")),
            }
        }
        let activation = Activation::new(vec![Val::of(claims)]);
        for rule in &self.claim_rules {
            rule.check(&activation).map_err(|why| {
                format!("oidc: error evaluating claim validation expression: {why}")
            })?;
        }
        self.check_user(&identity)?;
        Ok(identity)
    }

    fn check_user(&self, identity: &Identity) -> Result<(), String> {
        let user = json!({
            "username": identity.user, "uid": identity.uid, "groups": identity.groups,
            "extra": identity.extra,
        });
        let activation = Activation::new(vec![Val::declared(&user, &USER)]);
        for rule in &self.user_rules {
            rule.check(&activation).map_err(|why| {
                format!("oidc: error evaluating user info validation rule: {why}")
            })?;
        }
        Ok(())
    }

    fn username(&self, map: &Map<String, Value>, claims: &Value) -> Result<String, String> {
        let name = match &self.username {
            Mapping::Expression(program) => text(program, claims).map_err(|why| {
                format!("oidc: error evaluating username claim expression: {why}")
            })?,
            Mapping::Claim { claim, prefix } => {
                let fail = |why: &str| format!("oidc: parse username claims \"{claim}\": {why}");
                let name = match map.get(claim) {
                    None => return Err(fail("claim not present")),
                    Some(Value::String(name)) => name,
                    Some(_) => return Err(fail("it is no string")),
                };
                if claim == "email" {
                    match map.get("email_verified") {
                        // Some issuers do not say.
                        None | Some(Value::Bool(true)) => {}
                        Some(Value::Bool(false)) => return Err("oidc: email not verified".into()),
                        Some(_) => {
                            return Err(
                                "oidc: parse 'email_verified' claim: it is no boolean".into()
                            );
                        }
                    }
                }
                if name.is_empty() {
                    return Err(fail("it is empty"));
                }
                format!("{prefix}{name}")
            }
        };
        match name.is_empty() {
            true => Err("oidc: empty username via CEL expression is not allowed".into()),
            false => Ok(name),
        }
    }
}

/// One string or several.
fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(list) => list.iter().map(|it| it.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

fn evaluate(program: &Program, claims: &Value) -> Result<Value, String> {
    let activation = Activation::new(vec![Val::of(claims)]);
    let (value, _) = program.evaluate(&activation, BUDGET);
    let value = value.map_err(|error| error.to_string())?;
    value.to_json().ok_or_else(|| format!("it comes to a {}", value.type_name()))
}

fn text(program: &Program, claims: &Value) -> Result<String, String> {
    match evaluate(program, claims)? {
        Value::String(text) => Ok(text),
        _ => Err("expression must return a string".to_owned()),
    }
}

/// None, one or several; what is empty is none.
fn texts(program: &Program, claims: &Value) -> Result<Vec<String>, String> {
    let value = evaluate(program, claims)?;
    if value.is_null() {
        return Ok(Vec::new());
    }
    let texts = strings(&value);
    let texts =
        texts.ok_or_else(|| "expression must return a string or a list of strings".to_owned())?;
    Ok(texts.into_iter().filter(|text| !text.is_empty()).collect())
}
