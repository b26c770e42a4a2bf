use serde_json::json;

use super::*;

#[tokio::test]
async fn patches_of_many_clients_are_all_applied() {
    let it = Fixture::new().await;
    it.create(CONFIG_MAPS, config_map("a")).await;
    let path = &format!("{CONFIG_MAPS}/a");
    let patches = (0..12).map(|i| it.merge(path, json!({"data": {format!("k{i}"): "v"}})));
    for answer in futures::future::join_all(patches).await {
        assert_eq!(answer.code, 200, "{}", answer.body);
    }
    let data = it.get(path).await.body["data"].clone();
    assert_eq!(data.as_object().map(|map| map.len()), Some(13));
}

#[tokio::test]
async fn of_conditional_writes_exactly_one_wins() {
    let it = Fixture::new().await;
    let created = it.create(CONFIG_MAPS, config_map("a")).await;
    let path = &format!("{CONFIG_MAPS}/a");
    let writes = (0..8).map(|i| {
        let mut body = created.clone();
        body["data"]["a"] = i.to_string().into();
        it.put(path, body)
    });
    let codes: Vec<u16> =
        futures::future::join_all(writes).await.iter().map(|answer| answer.code).collect();
    assert_eq!(codes.iter().filter(|code| **code == 200).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 409).count(), 7, "{codes:?}");
}

#[tokio::test]
async fn of_equal_creations_exactly_one_wins() {
    let it = Fixture::new().await;
    let creations = (0..8).map(|_| it.post(CONFIG_MAPS, config_map("a")));
    let codes: Vec<u16> =
        futures::future::join_all(creations).await.iter().map(|answer| answer.code).collect();
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 1, "{codes:?}");
}
