//! HTTP/1.1 by hand, for what no client would send.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

pub(super) struct Connection {
    stream: BufReader<TcpStream>,
}

#[derive(Debug)]
pub(super) struct RawResponse {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Vec<(String, Vec<u8>)>,
}

impl RawResponse {
    pub(super) fn header(&self, name: &str) -> Option<&[u8]> {
        let mut all = self.headers.iter();
        all.find(|(known, _)| known == name)
            .map(|(_, value)| value.as_slice())
    }
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream: BufReader::new(stream),
        }
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes).await
    }

    /// A POST with this header value and a body of 2 bytes.
    pub(super) async fn post(&mut self, key: &[u8]) -> Option<RawResponse> {
        let head =
            b"POST /payments HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\nidempotency-key: ";
        let request = [head, key, b"\r\n\r\n{}"].concat();
        self.send(&request).await.ok()?;
        self.response().await
    }

    /// The next response; `None` if the server closed the connection first.
    pub(super) async fn response(&mut self) -> Option<RawResponse> {
        let status_line = self.line().await?;
        let status = String::from_utf8_lossy(&status_line);
        let status = status.split(' ').nth(1).unwrap().parse().unwrap();
        let headers = self.fields().await?;
        let find = |name: &str| headers.iter().find(|(known, _)| known == name);
        let (mut body, mut trailers) = (Vec::new(), Vec::new());
        if let Some((_, length)) = find("content-length") {
            body = vec![0; std::str::from_utf8(length).unwrap().parse().unwrap()];
            self.stream.read_exact(&mut body).await.ok()?;
        } else if find("transfer-encoding").is_some() {
            loop {
                let line = self.line().await?;
                let length =
                    usize::from_str_radix(std::str::from_utf8(&line).unwrap(), 16).unwrap();
                if length == 0 {
                    break;
                }
                let start = body.len();
                body.resize(start + length, 0);
                self.stream.read_exact(&mut body[start..]).await.ok()?;
                self.line().await?;
            }
            trailers = self.fields().await?;
        }
        Some(RawResponse {
            status,
            headers,
            body,
            trailers,
        })
    }

    async fn fields(&mut self) -> Option<Vec<(String, Vec<u8>)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Some(fields);
            }
            let colon = line.iter().position(|byte| *byte == b':').unwrap();
            let name = String::from_utf8(line[..colon].to_ascii_lowercase()).unwrap();
            fields.push((name, line[colon + 1..].trim_ascii().to_vec()));
        }
    }

    async fn line(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).await.ok()?;
        if line.pop() != Some(b'\n') {
            return None;
        }
        assert_eq!(line.pop(), Some(b'\r'));
        Some(line)
    }
}
