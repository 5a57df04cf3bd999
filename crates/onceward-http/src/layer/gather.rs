//! Reads a body up to a limit.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body;
use tokio::select;

use crate::profile::Content;

/// How the reading of a body ended.
#[derive(Debug)]
pub(crate) enum Gathered<E> {
    /// This is all of it.
    Whole(Content),
    /// It goes on after these bytes, and is larger than the limit or takes longer.
    Larger(Bytes),
    /// It broke off after these bytes.
    Broken(Bytes, E),
}

/// Reads `body` to its end, or until it is larger than `limit` bytes or `patience` has ended. A single chunk is
/// not copied. `patience` is polled only while the body is waited for.
pub(crate) async fn gather<B: Body>(
    mut body: Pin<&mut B>,
    limit: usize,
    patience: impl Future<Output = ()>,
) -> Gathered<B::Error> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Gathered::Larger(Bytes::new());
    }
    let mut patience = pin!(patience);
    let mut read = Read::default();
    let mut trailers: Option<HeaderMap> = None;
    while !body.is_end_stream() {
        let frame = select! {
            biased;
            frame = poll_fn(|context| body.as_mut().poll_frame(context)) => frame,
            () = patience.as_mut() => return Gathered::Larger(read.into_bytes()),
        };
        match frame {
            None => break,
            Some(Err(error)) => return Gathered::Broken(read.into_bytes(), error),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(mut data) => {
                    read.push(data.copy_to_bytes(data.remaining()), announced);
                    if read.len() > limit {
                        return Gathered::Larger(read.into_bytes());
                    }
                }
                Err(frame) => {
                    if let Ok(more) = frame.into_trailers() {
                        trailers.get_or_insert_default().extend(more);
                    }
                }
            },
        }
    }
    Gathered::Whole(Content::new(read.into_bytes(), trailers))
}

/// What has been read: the first chunk as it came, all of them in one run after that.
#[derive(Default)]
struct Read {
    first: Bytes,
    all: BytesMut,
}

impl Read {
    fn len(&self) -> usize {
        self.first.len().max(self.all.len())
    }

    fn push(&mut self, chunk: Bytes, announced: usize) {
        if self.len() == 0 {
            self.first = chunk;
            return;
        }
        if self.all.is_empty() {
            self.all
                .reserve(announced.max(self.first.len() + chunk.len()));
            self.all.extend_from_slice(&self.first);
            self.first = Bytes::new();
        }
        self.all.extend_from_slice(&chunk);
    }

    fn into_bytes(self) -> Bytes {
        if self.all.is_empty() {
            self.first
        } else {
            self.all.freeze()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::task::{Context, Poll};

    use http::HeaderValue;
    use http_body::{Frame, SizeHint};

    use super::*;

    struct Frames(VecDeque<Result<Frame<Bytes>, &'static str>>, u64);

    impl Body for Frames {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            Poll::Ready(self.0.pop_front())
        }

        fn size_hint(&self) -> SizeHint {
            let mut hint = SizeHint::new();
            hint.set_lower(self.1);
            hint
        }
    }

    #[allow(clippy::unnecessary_wraps)] // It is what a body gives.
    fn data(text: &'static str) -> Result<Frame<Bytes>, &'static str> {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    fn read(
        frames: impl IntoIterator<Item = Result<Frame<Bytes>, &'static str>>,
        announced: u64,
    ) -> Gathered<&'static str> {
        let mut body = Frames(frames.into_iter().collect(), announced);
        futures::executor::block_on(gather(Pin::new(&mut body), 4, std::future::pending()))
    }

    #[test]
    fn a_body_at_the_limit_is_whole_and_one_byte_more_is_larger() {
        for frames in [
            vec![data("abcd")],
            vec![data("ab"), data("cd")],
            vec![data(""), data("abcd")],
        ] {
            let gathered = read(frames, 0);
            assert!(matches!(&gathered, Gathered::Whole(content) if content.body == "abcd"));
        }
        for frames in [
            vec![data("abcde")],
            vec![data("ab"), data("cde"), data("f")],
        ] {
            assert!(matches!(read(frames, 0), Gathered::Larger(bytes) if bytes == "abcde"));
        }
        assert!(matches!(read([data("abcde")], 5), Gathered::Larger(bytes) if bytes.is_empty()));
    }

    #[test]
    fn a_body_that_takes_too_long_is_larger_and_one_that_is_there_never_is() {
        let mut body = Frames([data("ab")].into(), 0);
        let gathered = gather(Pin::new(&mut body), 4, std::future::ready(()));
        let gathered = futures::executor::block_on(gathered);
        assert!(matches!(gathered, Gathered::Whole(content) if content.body == "ab"));
        let mut stalled = http_body_util::StreamBody::new(futures::StreamExt::chain(
            futures::stream::iter([data("ab")]),
            futures::stream::pending(),
        ));
        let gathered = gather(Pin::new(&mut stalled), 4, std::future::ready(()));
        let gathered = futures::executor::block_on(gathered);
        assert!(matches!(gathered, Gathered::Larger(bytes) if bytes == "ab"));
    }

    #[test]
    fn trailers_are_gathered_and_a_broken_body_tells_what_came() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let end = Ok(Frame::trailers(trailers.clone()));
        let gathered = read([data("a"), data("b"), end], 2);
        let Gathered::Whole(content) = gathered else {
            panic!()
        };
        assert_eq!(content, Content::new("ab", Some(trailers)));
        let gathered = read([data("a"), Err("gone"), data("b")], 0);
        assert!(matches!(gathered, Gathered::Broken(bytes, "gone") if bytes == "a"));
    }
}
