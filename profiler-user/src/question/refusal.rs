//! Why a question has no answer, and what helps.

/// What kind of answer there is instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The question makes no sense.
    Usage,
    /// Nothing is stored that it is about.
    Nothing,
    /// Whoever asks may not read the store.
    Forbidden,
    /// The store could not be read.
    Failed,
}

/// A question without an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refusal {
    /// What kind.
    pub(crate) kind: Kind,
    /// What is wrong, with what was found.
    pub(crate) message: String,
    /// What helps, as a command where there is one.
    pub(crate) hint: Option<String>,
}

impl Refusal {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None }
    }

    /// A question that makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// Adds what helps.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
