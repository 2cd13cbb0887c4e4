//! What the error stream says at a session's end: `metav1.Status` as JSON from protocol v4 on, text before
//! (k8s.io/apimachinery/pkg/util/remotecommand).

use serde_json::json;

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// As it should.
    Success,
    /// The process has ended with this code, which is not 0.
    ExitCode(i32),
    /// It could not be had, or broke.
    Failed(String),
}

/// How the error stream is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// v1 to v3: the message, or nothing.
    Text,
    /// v4 and v5.
    Json,
}

impl Ended {
    /// The error stream's content.
    pub(super) fn encode(&self, form: Form) -> String {
        match (form, self) {
            (Form::Text, Self::Success) => String::new(),
            (Form::Text, _) => self.message(),
            (Form::Json, Self::Success) => json!({ "metadata": {}, "status": "Success" }).to_string(),
            (Form::Json, Self::ExitCode(code)) => json!({
                "metadata": {}, "status": "Failure", "message": self.message(), "reason": "NonZeroExitCode",
                "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
            })
            .to_string(),
            (Form::Json, Self::Failed(why)) => json!({
                "metadata": {}, "status": "Failure", "message": self.message(), "reason": "InternalError",
                "details": { "causes": [{ "message": why }] }, "code": 500,
            })
            .to_string(),
        }
    }

    fn message(&self) -> String {
        match self {
            Self::Success => String::new(),
            Self::ExitCode(code) => {
                format!("command terminated with non-zero exit code: exit status {code}")
            }
            Self::Failed(why) => format!("Internal error occurred: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_causes() {
        let status: serde_json::Value =
            serde_json::from_str(&Ended::ExitCode(42).encode(Form::Json)).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"], json!([{ "reason": "ExitCode", "message": "42" }]));
        assert_eq!(Ended::Success.encode(Form::Json), r#"{"metadata":{},"status":"Success"}"#);
        let failed: serde_json::Value =
            serde_json::from_str(&Ended::Failed("no \"x\"".into()).encode(Form::Json)).unwrap();
        assert_eq!(failed["message"], "Internal error occurred: no \"x\"");
    }

    #[test]
    fn older_clients_get_text() {
        assert_eq!(Ended::Success.encode(Form::Text), "");
        assert!(Ended::ExitCode(3).encode(Form::Text).ends_with("exit status 3"));
    }
}
