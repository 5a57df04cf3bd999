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
use crate::http::Content;
use crate::middleware::{Disposition, LayerBody};

/// A request's head in the words of `http` 1, or `None` if that refuses what 0.2 has taken.
pub(super) fn request_head(request: &ServiceRequest) -> Option<Parts> {
    let mut head = http::Request::new(()).into_parts().0;
    head.method = Method::from_bytes(request.method().as_str().as_bytes()).ok()?;
    head.uri = request.uri().to_string().parse::<Uri>().ok()?;
    head.headers = headers_from_actix(request.headers());
    Some(head)
}

/// A handler's response, as the core reads it.
pub(super) fn plain_response(response: HttpResponse<BoxBody>) -> Response<Messages<BoxBody>> {
    let status = response.status().as_u16();
    let headers = headers_from_actix(response.headers());
    let (_, body) = response.into_parts();
    let mut plain = Response::new(Messages::new(body));
    *plain.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    *plain.headers_mut() = headers;
    plain
}

/// The core's answer, with the handler's body in it.
pub(super) fn layer_response(
    response: Response<LayerBody<Messages<BoxBody>>>,
) -> HttpResponse<BoxBody> {
    actix_response(response.map(LayerMessages::new))
}

/// The core's own answer.
pub(super) fn content_response(response: Response<Content>) -> HttpResponse<BoxBody> {
    actix_response(response.map(|content| content.body))
}

/// The core's own answer as an error of the service, where there is no request to answer any more.
pub(super) fn refused(response: Response<Content>) -> actix_web::Error {
    let response = content_response(response);
    actix_web::error::InternalError::from_response("the handler was cancelled", response).into()
}

fn actix_response<B: MessageBody + 'static>(response: Response<B>) -> HttpResponse<BoxBody> {
    let (head, body) = response.into_parts();
    let status = ActixStatus::from_u16(head.status.as_u16()).unwrap_or_default();
    let mut answer = HttpResponse::new(status)
        .set_body(body)
        .map_into_boxed_body();
    for (name, value) in &head.headers {
        let name = ActixName::from_bytes(name.as_str().as_bytes());
        let value = ActixValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            answer.headers_mut().append(name, value);
        }
    }
    if let Some(disposition) = head.extensions.get::<Disposition>() {
        answer.extensions_mut().insert(disposition.clone());
    }
    answer
}

fn headers_from_actix(headers: &ActixHeaders) -> HeaderMap {
    let mut plain = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_str().as_bytes());
        let value = HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            plain.append(name, value);
        }
    }
    plain
}
