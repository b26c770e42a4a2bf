//! What kinds do with objects that the schema let through: nothing fails on odd ones, and what was done is not done again.

use coracle_api::kinds::Prepare;
use coracle_api::schema::check;
use coracle_api::{Object, kinds};
use coracle_fuzz::cases;
use jiff::Timestamp;

use super::documents::{any_kind, object, schema_of};

#[test]
fn defaults_are_filled_in_once() {
    cases("defaults", |random| {
        let kind = any_kind(random);
        let Ok(decoded) = check(object(random, kind, 1), schema_of(kind)) else { return };
        let mut once = decoded.value;
        (kind.default)(&mut once);
        let mut twice = once.clone();
        (kind.default)(&mut twice);
        assert_eq!(once, twice, "{}", kind.kind);
        // What is filled in, the schema has.
        let checked = check(once.clone(), schema_of(kind)).expect("what was filled in");
        assert!(checked.strict.is_empty(), "{}: {:?}", kind.kind, checked.strict);
    });
}

#[test]
fn objects_are_checked_printed_and_compared() {
    cases("checks", |random| {
        let kind = any_kind(random);
        let mut made = || {
            let decoded = check(object(random, kind, 1), schema_of(kind)).ok()?;
            let mut tree = decoded.value;
            (kind.default)(&mut tree);
            Some(tree)
        };
        let (Some(mut new), Some(old)) = (made(), made()) else { return };
        let _ = ((kind.validate)(&old), (kind.validate_create)(&old), (kind.warnings)(&old));
        let _ = (kind.validate_update)(&new, &old);
        // What has not changed may stay.
        if (kind.validate)(&old).is_empty() {
            let errors = (kind.validate_update)(&old, &old);
            assert!(errors.is_empty(), "{}: {errors:?} of {old}", kind.kind);
        }
        (kind.prepare)(Prepare::Status { new: &mut new, old: &old });
        (kind.prepare)(Prepare::Update { new: &mut new, old: &old });
        (kind.prepare)(Prepare::Create(&mut new));
        // What an owner lacks, validation has said.
        let Ok(stored) = Object::from_value(kind, &new) else { return };
        assert_eq!(
            (kind.cells)(&stored, Timestamp::UNIX_EPOCH).len(),
            kind.columns.len(),
            "{}",
            kind.kind
        );
        for field in kind.fields {
            let _ = (field.read)(&stored);
        }
    });
}

#[test]
fn definitions_of_custom_kinds() {
    let kind = &kinds::CUSTOM_RESOURCE_DEFINITION;
    cases("definitions", |random| {
        let mut tree = object(random, kind, 0);
        tree["spec"]["group"] = "example.com".into();
        let Ok(decoded) = check(tree, schema_of(kind)) else { return };
        let mut tree = decoded.value;
        (kind.default)(&mut tree);
        let fine = (kind.validate)(&tree).is_empty();
        if let Ok(object) = Object::from_value(kind, &tree) {
            let read = coracle_api::custom::Definition::read(&object, None);
            // What passed can be used.
            assert!(!fine || read.is_ok(), "{:?} of {tree}", read.err());
        }
    });
}
