use super::*;

#[tokio::test]
async fn what_one_end_says_the_other_hears() {
    let (near, far) = tokio::io::duplex(1000);
    let (session, mut host) = Session::pair();
    tokio::spawn(serve(far, session));
    let mut client = call(near);

    let size = Size { columns: 132, rows: 50 };
    let inputs = [Input::Stdin("hello".into()), Input::Resize(size), Input::StdinEnd];
    for input in inputs {
        client.input.send(input.clone()).await.unwrap();
        assert_eq!(host.input.recv().await, Some(input));
    }
    // Longer than a frame: comes in parts, in order.
    let long = Bytes::from(vec![7; MAX_FRAME + 5]);
    host.output.send(Output::Stdout(long.clone())).await.unwrap();
    let mut got = Vec::new();
    while got.len() < long.len() {
        match client.output.recv().await {
            Some(Output::Stdout(bytes)) => got.extend_from_slice(&bytes),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(got, long);
    for output in [Output::Stderr("oh".into()), Output::Exit(-3)] {
        host.output.send(output.clone()).await.unwrap();
        assert_eq!(client.output.recv().await, Some(output));
    }
    assert_eq!(client.output.recv().await, None);
}

#[tokio::test]
async fn a_client_that_goes_is_noticed() {
    let (near, far) = tokio::io::duplex(1000);
    let (session, mut host) = Session::pair();
    tokio::spawn(serve(far, session));
    drop(near);
    assert_eq!(host.input.recv().await, None);
}

#[tokio::test]
async fn a_frame_that_is_too_long_ends_the_session() {
    let (mut near, far) = tokio::io::duplex(1000);
    let (session, mut host) = Session::pair();
    tokio::spawn(serve(far, session));
    near.write_all(&[b'i', 0xff, 0, 0, 0]).await.unwrap();
    assert_eq!(host.input.recv().await, None);
}
