//! Answers, and refusals in words that help.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use crate::question::{Kind, Refusal};

/// What a route answers with.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) content_type: Cow<'static, str>,
    pub(super) bytes: Vec<u8>,
    /// Name under which a browser saves it instead of showing it.
    pub(super) save_as: Option<String>,
}

impl Answer {
    pub(super) fn json(value: &serde_json::Value) -> Self {
        Self { content_type: "application/json".into(), bytes: value.to_string().into_bytes(), save_as: None }
    }

    pub(super) fn text(content_type: &'static str, text: impl Into<Vec<u8>>) -> Self {
        Self { content_type: content_type.into(), bytes: text.into(), save_as: None }
    }
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    /// A word for machines.
    pub(super) cause: Cow<'static, str>,
    /// What is wrong, and what was found.
    pub(super) message: String,
    /// What helps.
    pub(super) hint: Option<String>,
    /// Seconds after which another attempt may succeed.
    pub(super) retry_after: Option<u32>,
}

impl Refused {
    pub(super) fn new(status: StatusCode, cause: &'static str, message: impl Into<String>) -> Self {
        Self { status, cause: cause.into(), message: message.into(), hint: None, retry_after: None }
    }

    /// Too many at once.
    pub(super) fn busy(message: impl Into<String>) -> Self {
        let refused = Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", message);
        Self { retry_after: Some(2), ..refused }
    }

    /// It cannot be answered now.
    pub(super) fn unavailable(cause: &'static str, message: impl Into<String>) -> Self {
        let refused = Self::new(StatusCode::SERVICE_UNAVAILABLE, cause, message);
        Self { retry_after: Some(10), ..refused }
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "usage", message)
    }

    #[must_use]
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(super) fn response(&self) -> Response<Body> {
        let body = json!({ "error": self.message, "cause": self.cause, "hint": self.hint });
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            // Browsers ask for it and send it with every request to this origin; who uses the API sends it as a bearer token.
            let ask = HeaderValue::from_static(
                "Basic realm=\"perf-agent: any name, the token as password\", charset=\"UTF-8\"",
            );
            headers.insert(header::WWW_AUTHENTICATE, ask);
        }
        response
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let (status, cause) = match refusal.kind {
            Kind::Usage => (StatusCode::BAD_REQUEST, "usage"),
            Kind::Nothing => (StatusCode::NOT_FOUND, "nothing"),
            Kind::Forbidden | Kind::Failed => (StatusCode::SERVICE_UNAVAILABLE, "store"),
        };
        let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(10);
        Self { status, cause: cause.into(), message: refusal.message, hint: refusal.hint, retry_after }
    }
}

impl From<anyhow::Error> for Refused {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Refusal>() {
            Ok(refusal) => refusal.into(),
            Err(error) => Self::usage(format!("{error:#}")),
        }
    }
}
