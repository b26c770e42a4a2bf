use super::*;

fn list(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The table of the Kubernetes documentation ("Define a Command and Arguments for a Container").
#[test]
fn the_containers_words_stand_in_for_the_images() {
    let check =
        |entrypoint: &[&str], cmd: &[&str], command: &[&str], args: &[&str], wanted: &[&str]| {
            let container = Container {
                image: Some("image:v1".to_owned()),
                command: Some(list(command)).filter(|c| !c.is_empty()),
                args: Some(list(args)).filter(|a| !a.is_empty()),
                ..Container::default()
            };
            let run = Run { entrypoint: list(entrypoint), cmd: list(cmd), ..Run::default() };
            let environment = [("NAME".to_owned(), "value".to_owned())];
            assert_eq!(arguments(&container, &environment, &run), wanted);
        };
    check(&["/ep-1"], &["foo", "bar"], &[], &[], &["/ep-1", "foo", "bar"]);
    check(&["/ep-1"], &["foo", "bar"], &["/ep-2"], &[], &["/ep-2"]);
    check(&["/ep-1"], &["foo", "bar"], &[], &["zoo", "boo"], &["/ep-1", "zoo", "boo"]);
    check(&["/ep-1"], &["foo", "bar"], &["/ep-2"], &["zoo", "boo"], &["/ep-2", "zoo", "boo"]);
    check(&[], &["/cmd", "x"], &[], &[], &["/cmd", "x"]);
    check(&[], &["/cmd", "x"], &[], &["/arg"], &["/arg"]);
    check(&["/ep"], &[], &[], &["$(NAME)"], &["/ep", "value"]);
    // An artifact says nothing of how it is run: its name stands for the program's.
    check(&[], &[], &[], &["x"], &["image:v1", "x"]);
    check(&[], &[], &["tool"], &[], &["tool"]);
}

#[test]
fn the_containers_environment_comes_over_the_images() {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let run = Run { env: vec![pair("PATH", "/bin"), pair("MODE", "image")], ..Run::default() };
    let own = vec![pair("HOSTNAME", "pod"), pair("MODE", "pod")];
    let wanted = [pair("PATH", "/bin"), pair("HOSTNAME", "pod"), pair("MODE", "pod")];
    assert_eq!(environment(&run, own), wanted);
}
