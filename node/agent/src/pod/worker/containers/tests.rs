use serde_json::json;

use super::*;

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|word| (*word).to_owned()).collect()
}

/// `command`, `args`, the image's entrypoint and command, and what is run.
fn check(own: (&[&str], &[&str]), image: (&[&str], &[&str]), expected: &[&str]) {
    let container: Container =
        serde_json::from_value(json!({"name": "c", "image": "i", "command": own.0, "args": own.1}))
            .unwrap();
    let run = Run { entrypoint: words(image.0), cmd: words(image.1), ..Run::default() };
    let environment = [("WHO".to_owned(), "me".to_owned())];
    let got = arguments(&container, &environment, &run);
    assert_eq!(got.unwrap_or_default(), words(expected), "{own:?} {image:?}");
}

#[test]
fn command_and_args_stand_in_for_entrypoint_and_cmd() {
    let image: (&[&str], &[&str]) = (&["/entry"], &["a", "b"]);
    check((&[], &[]), image, &["/entry", "a", "b"]);
    check((&[], &["x"]), image, &["/entry", "x"]);
    check((&["sh"], &[]), image, &["sh"]);
    check((&["sh"], &["-c", "echo $(WHO)"]), image, &["sh", "-c", "echo me"]);
    check((&[], &[]), (&[], &["sh"]), &["sh"]);
    check((&[], &["x", "y"]), (&[], &["sh"]), &["x", "y"]);
    // Nothing at all: the caller refuses.
    check((&[], &[]), (&[], &[]), &[]);
}
