use serde_json::json;

use super::*;

#[tokio::test]
async fn a_full_store_refuses_writes_and_goes_on_reading() {
    let it = Fixture::with(|config| {
        config.controllers = false;
        config.scheduler = false;
        config.store.max_bytes = 1 << 20;
    })
    .await;
    let large =
        |name: &str| json!({"metadata": {"name": name}, "data": {"a": "x".repeat(200_000)}});
    let mut stored = 0;
    let refused = loop {
        let answer = it.post(CONFIG_MAPS, large(&format!("m{stored}"))).await;
        match answer.code {
            201 => stored += 1,
            _ => break answer,
        }
        assert!(stored < 20, "the store has no bound");
    };
    assert_eq!((refused.code, refused.body["status"].as_str()), (507, Some("Failure")));
    assert!(refused.message().contains("delete objects"), "{}", refused.message());
    assert_eq!(it.get(CONFIG_MAPS).await.names().len(), stored);
    assert_eq!(it.delete(&format!("{CONFIG_MAPS}/m0")).await.code, 200);
    assert_eq!(it.get(CONFIG_MAPS).await.names().len(), stored - 1);
}
