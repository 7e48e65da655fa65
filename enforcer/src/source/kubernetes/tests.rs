//! What a real API server cannot be made to do, from one that follows a script.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    response::IntoResponse,
    routing::any,
};
use kube::Config;
use serde_json::{Value, json};

use super::*;
use crate::source::{objects::Kind, store::Key};

const LIMIT: Duration = Duration::from_secs(20);

/// Answers to requests, in order; the last one is repeated.
type Script = Vec<(StatusCode, String)>;

struct Server {
    script: Script,
    answered: AtomicUsize,
    asked: Mutex<Vec<String>>,
}

impl Server {
    async fn start(script: Script) -> (Arc<Self>, Client) {
        let (answered, asked) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let server = Arc::new(Self { script, answered, asked });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(any(answer)).with_state(Arc::clone(&server));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let config = Config::new(format!("http://{address}").parse().unwrap());
        (server, Client::try_from(config).unwrap())
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn answer(State(server): State<Arc<Server>>, request: Request) -> impl IntoResponse {
    let number = server.answered.fetch_add(1, Ordering::SeqCst);
    let kind = if request.uri().to_string().contains("watch=true") { "watch" } else { "list" };
    server.asked.lock().unwrap().push(kind.to_owned());
    let last = server.script.len() - 1;
    if number > last {
        // A watch without end, or a list that takes its time.
        tokio::time::sleep(LIMIT).await;
    }
    server.script[number.min(last)].clone()
}

fn node(name: &str, version: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "resourceVersion": version.to_string()},
    })
}

fn list(version: u32, nodes: &[Value]) -> (StatusCode, String) {
    let list = json!({
        "apiVersion": "v1", "kind": "NodeList",
        "metadata": {"resourceVersion": version.to_string()}, "items": nodes,
    });
    (StatusCode::OK, list.to_string())
}

fn event(kind: &str, object: &Value) -> String {
    json!({"type": kind, "object": object}).to_string() + "\n"
}

fn gone() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": "too old resource version: 5 (9)", "reason": "Expired", "code": 410,
    })
}

/// What the watch of Nodes hears until it has heard this many things.
async fn heard(client: &Client, number: usize) -> Vec<String> {
    let watches = watches::all("n1", "kubermatic", false);
    let watch = watches.into_iter().find(|watch| watch.kind == Kind::Node).unwrap();
    let (say, mut heard) = mpsc::channel(1);
    let mut tasks = JoinSet::new();
    tasks.spawn(watch.follow(0, client.clone(), Duration::ZERO, say));
    let mut all = Vec::new();
    while all.len() < number {
        let next = tokio::time::timeout(LIMIT, heard.recv()).await;
        let (_, next) = next.unwrap_or_else(|_| panic!("heard only {all:?}")).unwrap();
        all.push(match next {
            Heard::Begin => "begin".to_owned(),
            Heard::Listed(item) => format!("listed {}", item.key.name),
            Heard::Finished => "finished".to_owned(),
            Heard::Changed(item) if item.decoded.is_err() => format!("broken {}", item.key.name),
            Heard::Changed(item) => format!("changed {}", item.key.name),
            Heard::Deleted(Key { name, .. }) => format!("deleted {name}"),
            Heard::UnknownKind => "unknown kind".to_owned(),
            Heard::Failed { answered, .. } => format!("failed, answered: {answered}"),
        });
    }
    all
}

#[tokio::test]
async fn a_watch_whose_version_is_gone_lists_anew() {
    let (server, client) = Server::start(vec![
        list(5, &[node("a", 3)]),
        (StatusCode::OK, event("ERROR", &gone())),
        list(9, &[node("a", 3), node("b", 8)]),
        (StatusCode::OK, String::new()),
    ])
    .await;
    let wanted = ["begin", "listed a", "finished", "failed, answered: true"];
    let anew = ["begin", "listed a", "listed b", "finished"];
    assert_eq!(heard(&client, 8).await, [wanted, anew].concat());
    assert_eq!(server.asked()[..3], ["list", "watch", "list"]);
}

#[tokio::test]
async fn half_an_event_is_no_event_and_the_watch_goes_on_without_a_list() {
    let whole = event("ADDED", &node("b", 6));
    let half = &whole[..whole.len() / 2];
    let (server, client) = Server::start(vec![
        list(5, &[node("a", 3)]),
        (StatusCode::OK, format!("{}{half}", event("MODIFIED", &node("a", 6)))),
        (StatusCode::OK, event("ADDED", &node("b", 7))),
        (StatusCode::OK, String::new()),
    ])
    .await;
    let wanted = ["begin", "listed a", "finished", "changed a", "changed b"];
    assert_eq!(heard(&client, 5).await, wanted);
    assert_eq!(server.asked()[..3], ["list", "watch", "watch"]);
}

#[tokio::test]
async fn an_event_that_is_no_event_is_followed_by_a_list() {
    let (server, client) = Server::start(vec![
        list(5, &[node("a", 3)]),
        (StatusCode::OK, "{\"type\": \"ADDED\", \"object\": 7, \"x\": nonsense}\n".to_owned()),
        list(9, &[node("b", 8)]),
        (StatusCode::OK, String::new()),
    ])
    .await;
    let wanted = ["begin", "listed a", "finished", "failed, answered: false"];
    assert_eq!(heard(&client, 7).await, [&wanted[..], &["begin", "listed b", "finished"]].concat());
    assert_eq!(server.asked()[..3], ["list", "watch", "list"]);
}

#[tokio::test]
async fn a_malformed_object_stops_no_watch() {
    let mut broken = node("a", 6);
    broken["status"] = json!({"addresses": 7});
    let events = event("MODIFIED", &broken) + &event("ADDED", &node("b", 7));
    let (_, client) = Server::start(vec![list(5, &[node("a", 3)]), (StatusCode::OK, events)]).await;
    let wanted = ["begin", "listed a", "finished", "broken a", "changed b"];
    assert_eq!(heard(&client, 5).await, wanted);
}

#[tokio::test]
async fn a_kind_that_is_not_known_is_told_from_a_server_that_is_not_there() {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "message": "the server could not find the requested resource", "reason": "NotFound",
        "code": 404,
    });
    let (_, client) = Server::start(vec![(StatusCode::NOT_FOUND, status.to_string())]).await;
    assert_eq!(heard(&client, 2).await, ["begin", "unknown kind"]);
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let client = Client::try_from(Config::new(format!("http://{address}").parse().unwrap()));
    assert_eq!(heard(&client.unwrap(), 2).await, ["begin", "failed, answered: false"]);
}

#[tokio::test]
async fn what_vanishes_between_list_and_watch_is_gone_with_the_first_event() {
    // The second one came and went in between: nobody has heard of it.
    let events = event("DELETED", &node("b", 6)) + &event("DELETED", &node("short", 7));
    let listed = list(5, &[node("a", 3), node("b", 4)]);
    let (server, client) = Server::start(vec![listed, (StatusCode::OK, events)]).await;
    let wanted = ["begin", "listed a", "listed b", "finished", "deleted b", "deleted short"];
    assert_eq!(heard(&client, 6).await, wanted);
    assert_eq!(server.asked()[..2], ["list", "watch"]);
}

#[tokio::test]
async fn a_list_that_expires_between_two_pages_begins_anew() {
    let page = json!({
        "apiVersion": "v1", "kind": "NodeList",
        "metadata": {"resourceVersion": "5", "continue": "more"},
        "items": [node("a", 3), node("b", 4)],
    });
    let (server, client) = Server::start(vec![
        (StatusCode::OK, page.to_string()),
        (StatusCode::GONE, gone().to_string()),
        list(9, &[node("a", 3)]),
        (StatusCode::OK, String::new()),
    ])
    .await;
    let heard = heard(&client, 7).await;
    let begin = heard.iter().rposition(|it| it == "begin").unwrap();
    assert_eq!(heard[..3], ["begin", "listed a", "listed b"]);
    assert!(!heard[..begin].contains(&"finished".to_owned()), "{heard:?}");
    assert_eq!(heard[begin..], ["begin", "listed a", "finished"], "{heard:?}");
    assert_eq!(server.asked()[..3], ["list", "list", "list"]);
}
