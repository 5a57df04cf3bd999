//! What a service and its handler see of the tower layer, in process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{Request, Response, StatusCode};
use axum::routing::post;
use http_body_util::{BodyExt, Full};
use onceward::{Engine, EntryState, ErrorKind, Fingerprint, Key, Reply};
use onceward_http::profile::{Answer, Profile, Reason, Refusal};
use onceward_http::tower::IdempotencyLayer;
use onceward_http::{Attempt, Disposition, Fate, LayerBody, Options, Scope};
use tower::{Layer, ServiceExt};

fn layer(profile: Profile) -> (IdempotencyLayer, Engine) {
    let engine = Engine::builder().open_in_memory().unwrap();
    let layer = IdempotencyLayer::new(engine.clone(), profile, |_| Scope::named("tenant"));
    (layer, engine)
}

fn keyed(key: &str) -> Request<Body> {
    let request = Request::post("/").header("idempotency-key", key);
    request.body(Body::from("{}")).unwrap()
}

#[tokio::test]
async fn an_error_of_the_service_goes_through_and_leaves_the_key_taken() {
    let (layer, engine) = layer(Profile::deck());
    let service = layer.layer(tower::service_fn(|_: Request<LayerBody<Body>>| async {
        Err::<Response<Full<Bytes>>, _>("the upstream has gone")
    }));
    let error = service.clone().oneshot(keyed("k")).await.unwrap_err();
    assert_eq!(error, "the upstream has gone");
    // Nobody knows how far it came.
    let entry = engine
        .lookup(&Key::new("tenant", "k").unwrap())
        .unwrap()
        .unwrap();
    assert!(matches!(entry.state, EntryState::InFlight { .. }));
    assert_eq!(service.oneshot(keyed("k")).await.unwrap().status(), 409);
}

#[tokio::test]
async fn an_answer_that_breaks_off_reaches_the_client_as_far_as_it_came_and_isnt_kept() {
    let (layer, _engine) = layer(Profile::deck());
    let service = layer.layer(tower::service_fn(|_: Request<LayerBody<Body>>| async {
        let chunks = [Ok("half"), Err(std::io::Error::other("the disk has gone"))];
        let body = Body::from_stream(futures::stream::iter(chunks));
        Ok::<_, std::convert::Infallible>(Response::new(body))
    }));
    let response = service.clone().oneshot(keyed("k")).await.unwrap();
    assert!(matches!(
        response.extensions().get(),
        Some(Disposition::Executed {
            answer: Fate::Abandoned,
            ..
        })
    ));
    let mut body = response.into_body();
    let frame = body.frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "half");
    assert!(body.frame().await.unwrap().is_err());
    assert_eq!(service.oneshot(keyed("k")).await.unwrap().status(), 409);
}

#[tokio::test]
async fn a_handler_is_told_of_its_attempt_and_without_one_by_mistake_answers_500() {
    let (layer, _engine) = layer(Profile::deck());
    let told = async |attempt: Attempt| {
        let key = attempt.key();
        let downstream = key.downstream("charge");
        format!(
            "{} {} {} {downstream}",
            key.key(),
            attempt.number(),
            attempt.token() > 0
        )
    };
    let app = Router::new().route("/", post(told)).layer(layer);
    let response = app.clone().oneshot(keyed("k")).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let downstream = Key::new("tenant", "k").unwrap().downstream("charge");
    assert_eq!(body, format!("k 1 true {downstream}"));
    let without_key = Request::post("/").body(Body::empty()).unwrap();
    let response = app.oneshot(without_key).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn an_outer_layer_sees_what_was_done_with_a_request() {
    let (layer, _engine) = layer(Profile::deel());
    let runs = Arc::new(AtomicU64::new(0));
    let handler = move || {
        let is_first = runs.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if is_first {
                StatusCode::BAD_GATEWAY
            } else {
                StatusCode::OK
            }
        }
    };
    let app = Router::new().route("/", post(handler)).layer(layer);
    let mut seen = Vec::new();
    for body in ["{}", "{}", "{}", "{\"other\":1}"] {
        let request = Request::post("/").header("idempotency-key", "k");
        let response = app
            .clone()
            .oneshot(request.body(Body::from(body)).unwrap())
            .await
            .unwrap();
        seen.push(response.extensions().get::<Disposition>().unwrap().clone());
    }
    assert!(matches!(
        seen[0],
        Disposition::Executed {
            attempt: 1,
            answer: Fate::Released,
            ..
        }
    ));
    assert!(matches!(
        seen[1],
        Disposition::Executed {
            attempt: 1,
            answer: Fate::Kept,
            ..
        }
    ));
    assert_eq!(seen[2], Disposition::Replayed);
    let Disposition::Refused(Reason::Conflict(conflict)) = &seen[3] else {
        panic!("{:?}", seen[3]);
    };
    assert_eq!(conflict.part(), Some("body"));
}

#[tokio::test]
async fn a_reply_that_isnt_https_is_never_given_as_an_answer() {
    let (layer, engine) = layer(Profile::deck());
    let request = keyed("k");
    let fingerprint = Fingerprint::builder()
        .part("method", "POST")
        .part("path", "/")
        .part("body", "{}")
        .build()
        .unwrap();
    let reply = || Ok::<_, std::io::Error>(Reply::encode(&17).unwrap());
    engine
        .run(&Key::new("tenant", "k").unwrap(), &fingerprint, reply)
        .unwrap();
    let app = Router::new().route("/", post(async || "ran")).layer(layer);
    assert_eq!(app.oneshot(request).await.unwrap().status(), 503);
}

#[tokio::test]
async fn a_policys_url_stands_in_each_refusal() {
    let builder = Profile::ietf()
        .to_builder()
        .policy_url("https://example.com/idempotency");
    let (layer, _engine) = layer(builder.build().unwrap());
    let app = Router::new().route("/", post(async || "ran")).layer(layer);
    let without_key = Request::post("/").body(Body::empty()).unwrap();
    let response = app.oneshot(without_key).await.unwrap();
    assert_eq!(
        response.headers()["link"],
        "<https://example.com/idempotency>; rel=\"describedby\""
    );
}

#[tokio::test]
async fn a_key_can_be_required_of_some_operations_only() {
    let builder = Profile::ietf().to_builder();
    let builder = builder.require_key_where(|_, path| path.starts_with("/payments"));
    let (layer, _engine) = layer(builder.build().unwrap());
    let app = Router::new()
        .route("/payments", post(async || "paid"))
        .route("/notes", post(async || "noted"))
        .layer(layer);
    for (path, status) in [("/payments", 400), ("/notes", 200)] {
        let request = Request::post(path).body(Body::empty()).unwrap();
        assert_eq!(app.clone().oneshot(request).await.unwrap().status(), status);
    }
}

#[test]
fn profiles_that_make_no_sense_are_refused_with_a_reason() {
    let builder = Profile::builder;
    for (builder, word) in [
        (builder().methods([]), "at least one method"),
        (builder().max_key_chars(0), "max_key_chars is 0"),
        (builder().max_key_chars(1_025), "max_key_chars is 1025"),
        (
            builder().answer(Refusal::Conflict, Answer::new(101)),
            "the status 101",
        ),
        (builder().policy_url("https://example.com/\r\nx: y"), "URL"),
        (builder().policy_url(""), "URL"),
    ] {
        let error = builder.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[tokio::test]
async fn nested_routes_are_told_apart_by_the_path_that_the_client_sent() {
    let own = Options::new().fingerprint_with(|head, _| Ok(Fingerprint::of(head.uri.path())));
    for options in [Options::new(), own] {
        let (layer, _engine) = layer(Profile::deck());
        let layer = layer.with_options(options).unwrap();
        let cancel = async |uri: axum::http::Uri| uri.path().to_owned();
        let cancel = Router::new().route("/cancel", post(cancel)).layer(layer);
        let app = Router::new().nest("/orders/{id}", cancel);
        for (path, status) in [("/orders/17/cancel", 200), ("/orders/18/cancel", 409)] {
            let request = Request::post(path).header("idempotency-key", "k");
            let request = request.body(Body::empty()).unwrap();
            let response = app.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), status);
            if status == 200 {
                // The handler sees what the router left of it.
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(body, "/cancel");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_replaced_keeps_its_retry_after_unless_that_is_replaced_too() {
    let engine = Engine::builder().open_in_memory().unwrap();
    for (retry_after, is_sent) in [(None, true), (Some(false), false)] {
        let down = Answer::new(500).problem("about:blank", "Down", "");
        let down = match retry_after {
            Some(is_sent) => down.retry_after(is_sent),
            None => down,
        };
        let profile = Profile::deck()
            .to_builder()
            .answer(Refusal::Unavailable, down);
        let profile = profile.build().unwrap();
        let layer = IdempotencyLayer::new(engine.clone(), profile, |_| Scope::named("tenant"));
        engine.clone().close_async().await.ok();
        let app = Router::new().route("/", post(async || "ran")).layer(layer);
        let response = app.oneshot(keyed("k")).await.unwrap();
        assert_eq!(response.status(), 500);
        assert_eq!(response.headers().contains_key("retry-after"), is_sent);
    }
}

#[tokio::test]
async fn an_api_can_have_a_shape_of_errors_of_its_own_throughout() {
    let own = |refusal: Refusal| {
        let status = if refusal == Refusal::Conflict {
            422
        } else {
            400
        };
        Answer::new(status).problem("about:blank", "No", "{detail}")
    };
    let (layer, _engine) = layer(Profile::builder().answers(own).build().unwrap());
    let app = Router::new().route("/", post(async || "ran")).layer(layer);
    for (key, body, status) in [("k", "{}", 200), ("k", "other", 422), ("", "{}", 400)] {
        let request = Request::post("/").header("idempotency-key", key);
        let request = request.body(Body::from(body)).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), status);
        let is_problem = response.headers()["content-type"] == "application/problem+json";
        assert_eq!(is_problem, status != 200);
    }
}

#[tokio::test]
async fn of_two_layers_around_a_handler_the_outer_one_answers() {
    let (layer, _engine) = layer(Profile::deck());
    let inner = Router::new()
        .route("/", post(async || "ran"))
        .layer(layer.clone());
    let app = inner.layer(layer);
    for disposition in ["Executed", "Replayed"] {
        let response = app.clone().oneshot(keyed("k")).await.unwrap();
        assert_eq!(response.status(), 200);
        let seen = format!("{:?}", response.extensions().get::<Disposition>());
        assert!(seen.contains(disposition), "{seen}");
    }
}

#[tokio::test]
async fn an_answer_without_end_goes_to_its_client_and_holds_no_slot() {
    use futures::StreamExt;
    use onceward::ManualClock;

    let clock = ManualClock::new();
    let engine = Engine::builder()
        .clock(clock.clone())
        .open_in_memory()
        .unwrap();
    let layer = IdempotencyLayer::new(engine, Profile::deel(), |_| Scope::named("tenant"));
    let drain = layer.drain();
    let (sent, has_sent) = tokio::sync::oneshot::channel();
    let sent = Arc::new(std::sync::Mutex::new(Some(sent)));
    let service = layer.layer(tower::service_fn(move |_: Request<LayerBody<Body>>| {
        let sent = sent.lock().unwrap().take();
        let first = futures::stream::once(async move { Ok::<_, std::io::Error>("event") });
        // Polled again only once the event has been read.
        let rest = futures::stream::once(async move {
            sent.unwrap().send(()).unwrap();
            std::future::pending().await
        });
        let response = Response::new(Body::from_stream(first.chain(rest)));
        async move { Ok::<_, std::convert::Infallible>(response) }
    }));
    let response = tokio::spawn(service.oneshot(keyed("k")));
    has_sent.await.unwrap();
    assert_eq!(drain.running(), 1);
    while drain.running() > 0 {
        clock.advance(std::time::Duration::from_millis(10));
        tokio::task::yield_now().await;
    }
    let response = response.await.unwrap().unwrap();
    assert!(matches!(
        response.extensions().get(),
        Some(Disposition::Executed {
            answer: Fate::NotRetained,
            ..
        })
    ));
    let frame = response.into_body().frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "event");
}

#[actix_web::test]
async fn an_error_of_actix_web_is_answered_once_and_replayed_as_it_was() {
    use actix_web::error::InternalError;
    use actix_web::http::StatusCode as ActixStatus;
    use actix_web::middleware::from_fn;
    use actix_web::{App, HttpResponse, test, web};
    use onceward_http::actix::IdempotencyMiddleware;

    let engine = Engine::builder().open_in_memory().unwrap();
    let idempotency = IdempotencyMiddleware::new(engine, Profile::deck(), |_| Scope::everybody());
    let refusing = from_fn(
        |_request, _next: actix_web::middleware::Next<actix_web::body::BoxBody>| async {
            let response =
                HttpResponse::build(ActixStatus::UNPROCESSABLE_ENTITY).body("no such account");
            let error: actix_web::Error = InternalError::from_response("refused", response).into();
            Err::<actix_web::dev::ServiceResponse, _>(error)
        },
    );
    let app = App::new()
        .route("/", web::post().to(async || "ran"))
        .wrap(refusing)
        .wrap(idempotency);
    let app = test::init_service(app).await;
    for is_replay in [false, true] {
        let request = test::TestRequest::post()
            .uri("/")
            .insert_header(("idempotency-key", "k"));
        let response = match test::try_call_service(&app, request.to_request()).await {
            Ok(response) => response.into_parts().1.map_into_boxed_body(),
            Err(error) => HttpResponse::from_error(error),
        };
        assert_eq!(response.status(), ActixStatus::UNPROCESSABLE_ENTITY);
        assert_eq!(
            response.headers().contains_key("idempotent-replayed"),
            is_replay
        );
        assert!(response.headers().contains_key("x-request-id"));
        let body = actix_web::body::to_bytes(response.into_body())
            .await
            .unwrap();
        assert_eq!(body, "no such account");
    }
}

#[tokio::test]
async fn an_answer_whose_headers_are_too_large_is_noted_without_them_and_never_runs_again() {
    let engine = Engine::builder().max_reply_bytes(200);
    let engine = engine.open_in_memory().unwrap();
    let layer = IdempotencyLayer::new(engine, Profile::deel(), |_| Scope::named("tenant"));
    let runs = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&runs);
    let handler = move || {
        let run = count.fetch_add(1, Ordering::SeqCst) + 1;
        async move { ([("x-long", "x".repeat(1_000))], format!("run {run}")) }
    };
    let app = Router::new().route("/", post(handler)).layer(layer);
    for is_first in [true, false] {
        let response = app.clone().oneshot(keyed("k")).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers().contains_key("x-long"), is_first);
        let is_note = response.headers().contains_key("idempotent-not-retained");
        assert_eq!(is_note, !is_first);
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_grpc_status_behind_the_body_decides_whether_the_answer_is_kept() {
    for (status, runs_expected) in [("0", 1), ("14", 2)] {
        let (layer, _engine) = layer(Profile::deel());
        let runs = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&runs);
        let service = layer.layer(tower::service_fn(move |_: Request<LayerBody<Body>>| {
            count.fetch_add(1, Ordering::SeqCst);
            let trailers = [("grpc-status".parse().unwrap(), status.parse().unwrap())];
            let end = async move { Some(Ok(trailers.into_iter().collect())) };
            let body = Full::new(Bytes::from_static(b"message")).with_trailers(end);
            let response = Response::builder().header("content-type", "application/grpc");
            let response = response.body(body).unwrap();
            async move { Ok::<_, std::convert::Infallible>(response) }
        }));
        for _ in 0..2 {
            let response = service.clone().oneshot(keyed("k")).await.unwrap();
            let body = response.into_body().collect().await.unwrap();
            assert_eq!(body.trailers().unwrap()["grpc-status"], status);
            assert_eq!(body.to_bytes(), "message");
        }
        assert_eq!(runs.load(Ordering::SeqCst), runs_expected);
    }
}
