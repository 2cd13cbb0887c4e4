//! How long a caller waits.
//!
//! tonic ends a call whose `grpc-timeout` is over with `CANCELLED`, and does not look at streams at all. So [`Timely`]
//! answers every call a moment before, and what streams keeps an eye on the time itself.

use crate::error::{Error, Kind, Result};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::convert::Infallible;
use std::future::Future;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;

/// So much earlier than the caller stops waiting work ends, at most; nine tenths of its time are left to the work. Half of it
/// is left to the answer of a work that keeps an eye on the time itself and says what it was at.
const MARGIN: Duration = Duration::from_millis(50);

/// When a caller stops waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    /// How long it waits in all.
    total: Duration,
    at: Instant,
    /// How long before its end that is.
    margin: Duration,
}

impl Deadline {
    /// What a call that has just come says (gRPC over HTTP/2, "Timeout"); `None` if it says nothing, or nothing that can be
    /// read.
    pub(crate) fn of(metadata: &MetadataMap) -> Option<Self> {
        Self::said(metadata.get("grpc-timeout")?.to_str().ok()?)
    }

    fn said(text: &str) -> Option<Self> {
        let total = parse(text)?;
        let margin = MARGIN.min(total / 10);
        let at = Instant::now().checked_add(total - margin)?;
        Some(Self { total, at, margin })
    }

    /// Drops what is not done in time.
    ///
    /// # Errors
    /// [`Kind::DeadlineExceeded`]
    pub(crate) async fn limit<T>(self, work: impl Future<Output = T>) -> Result<T> {
        tokio::time::timeout_at(self.at, work).await.map_err(|_| {
            let why = format!(
                "not done within the {:?} that the caller waits; try again with more time",
                self.total
            );
            Error::new(Kind::DeadlineExceeded, why)
        })
    }
}

/// A service whose calls end by their deadlines with gRPC's word for it. What they have begun goes on.
#[derive(Clone, Debug)]
pub(crate) struct Timely<S>(pub(crate) S);

impl<S: NamedService> NamedService for Timely<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Timely<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, std::result::Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let said = request.headers().get("grpc-timeout").and_then(|t| t.to_str().ok());
        let deadline = said.and_then(Deadline::said);
        let answer = self.0.call(request);
        let Some(mut deadline) = deadline else { return answer.boxed() };
        deadline.at += deadline.margin / 2;
        async move { deadline.limit(answer).await.unwrap_or_else(|e| Ok(tonic::Status::from(e).into_http())) }
            .boxed()
    }
}

fn parse(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.is_empty() || number.len() > 8 || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_grpcs() {
        assert_eq!(parse("10S"), Some(Duration::from_secs(10)));
        assert_eq!(parse("1500m"), Some(Duration::from_millis(1500)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for odd in ["", "S", "10", "-1S", "1é", "123456789S", "1.5S"] {
            assert_eq!(parse(odd), None, "{odd}");
        }
    }

    #[tokio::test]
    async fn what_is_late_is_told_in_time() {
        let mut metadata = MetadataMap::new();
        assert!(Deadline::of(&metadata).is_none());
        metadata.insert("grpc-timeout", "30m".parse().unwrap());
        let deadline = Deadline::of(&metadata).unwrap();
        assert!(deadline.at < Instant::now() + Duration::from_millis(30));
        let late = deadline.limit(std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(late.kind(), Kind::DeadlineExceeded);
        assert!(late.to_string().contains("30ms"), "{late}");
        assert_eq!(deadline.limit(async { 7 }).await.unwrap(), 7);
    }
}
