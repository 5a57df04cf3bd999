//! Heads between the two versions of `http`: actix-web 4 speaks 0.2, the core speaks 1.

use actix_web::HttpResponse;
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::ServiceRequest;
use actix_web::http::StatusCode as ActixStatus;
use actix_web::http::header::{
    HeaderMap as ActixHeaders, HeaderName as ActixName, HeaderValue as ActixValue,
};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode, Uri};

use super::body::{LayerMessages, Messages};
use crate::layer::{Disposition, LayerBody};
use crate::profile::Content;

/// A request's head in the words of `http` 1, or `None` if that refuses what 0.2 has taken.
pub(super) fn request_head(request: &ServiceRequest) -> Option<Parts> {
    let mut head = http::Request::new(()).into_parts().0;
    head.method = Method::from_bytes(request.method().as_str().as_bytes()).ok()?;
    head.uri = request.uri().to_string().parse::<Uri>().ok()?;
    head.headers = headers_from_actix(request.headers())?;
    Some(head)
}

/// A handler's response, as the core reads it.
pub(super) fn plain_response(
    bare: &HttpResponse<()>,
    body: BoxBody,
) -> Response<Messages<BoxBody>> {
    let mut plain = Response::new(Messages::new(body));
    *plain.status_mut() = StatusCode::from_u16(bare.status().as_u16()).unwrap_or_default();
    // More headers than `http` 1 holds are more than can be kept; the client still gets them all.
    *plain.headers_mut() = headers_from_actix(bare.headers()).unwrap_or_default();
    plain
}

/// The answer for the client: the handler's own response with its body and what the core has added, or another
/// attempt's answer in its place.
pub(super) fn layer_response(
    bare: HttpResponse<()>,
    response: Response<LayerBody<Messages<BoxBody>>>,
) -> HttpResponse<BoxBody> {
    let disposition = response.extensions().get::<Disposition>();
    if !matches!(disposition, Some(Disposition::Executed { .. })) {
        return actix_response(response.map(LayerMessages::new));
    }
    let (head, body) = response.into_parts();
    let mut answer = bare
        .set_body(LayerMessages::new(body))
        .map_into_boxed_body();
    for (name, value) in &head.headers {
        if !answer.headers().contains_key(name.as_str()) {
            append(&mut answer, name, value);
        }
    }
    if let Some(disposition) = head.extensions.get::<Disposition>() {
        answer.extensions_mut().insert(disposition.clone());
    }
    answer
}

/// The core's own answer.
pub(super) fn content_response(response: Response<Content>) -> HttpResponse<BoxBody> {
    actix_response(response.map(|content| content.body))
}

fn actix_response<B: MessageBody + 'static>(response: Response<B>) -> HttpResponse<BoxBody> {
    let (head, body) = response.into_parts();
    let status = ActixStatus::from_u16(head.status.as_u16()).unwrap_or_default();
    let mut answer = HttpResponse::new(status)
        .set_body(body)
        .map_into_boxed_body();
    for (name, value) in &head.headers {
        append(&mut answer, name, value);
    }
    if let Some(disposition) = head.extensions.get::<Disposition>() {
        answer.extensions_mut().insert(disposition.clone());
    }
    answer
}

fn append(answer: &mut HttpResponse<BoxBody>, name: &HeaderName, value: &HeaderValue) {
    let name = ActixName::from_bytes(name.as_str().as_bytes());
    let value = ActixValue::from_bytes(value.as_bytes());
    if let (Ok(name), Ok(value)) = (name, value) {
        answer.headers_mut().append(name, value);
    }
}

/// `None` if there are more than `http` 1 holds.
fn headers_from_actix(headers: &ActixHeaders) -> Option<HeaderMap> {
    let mut plain = HeaderMap::new();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
        plain.try_append(name, value).ok()?;
    }
    Some(plain)
}
