//! As much of UPnP as forwards a port: a search on the LAN (SSDP), the router's description, and three calls (SOAP).
//!
//! Anybody on the LAN can answer the search. So whoever answers speaks for its own address only, everything it says is
//! cut off at a length and at a time, and what it promises counts only once a peer has got through.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use crate::path::source_of;

const SEARCH: (Ipv4Addr, u16) = (Ipv4Addr::new(239, 255, 255, 250), 1900);
const WANTED: &str = "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\
    ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n";
/// How long answers to a search are waited for.
const SEARCH_TIMEOUT: Duration = Duration::from_millis(1500);
/// Answers that are followed.
const ANSWERS_MAX: usize = 3;
const ANSWER_BYTES_MAX: usize = 2048;
/// A description of a router has about 5 KiB, an answer to a call less than one.
const BODY_BYTES_MAX: usize = 64 << 10;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Services that forward ports, the better first.
const SERVICES: [&str; 3] = [
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];
/// How long a mapping lasts, and when it is renewed.
const LEASE: Duration = Duration::from_secs(2 * 60 * 60);
pub(super) const RENEW_AFTER: Duration = Duration::from_secs(60 * 60);
/// Outer ports that are tried when ours is taken.
const OTHER_PORTS: usize = 3;
/// The router knows mappings without an end only (`OnlyPermanentLeasesSupported`, WANIPConnection:1, 2.4.16).
const PERMANENT_ONLY: u16 = 725;

/// A router did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpnpError {
    #[error("it does not answer: {0}")]
    Silent(String),
    #[error("what it says of itself names no service that forwards ports at its own address")]
    NoService,
    #[error("it refuses: error {0}")]
    Refused(u16),
    #[error("its answer names no address")]
    NoAddress,
}

/// A router, and where it takes calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Router {
    at: SocketAddrV4,
    path: String,
    service: &'static str,
}

/// Which carrier a port is of, as routers call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    Udp,
    Tcp,
}

impl Carrier {
    fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }
}

/// Searches the LAN for a router that forwards ports.
pub(super) async fn find() -> Option<Router> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await.ok()?;
    socket.send_to(WANTED.as_bytes(), SEARCH).await.ok()?;
    let until = Instant::now() + SEARCH_TIMEOUT;
    let mut buffer = [0; ANSWER_BYTES_MAX];
    for _ in 0..ANSWERS_MAX {
        let (length, from) = timeout_at(until, socket.recv_from(&mut buffer)).await.ok()?.ok()?;
        let Some((at, path)) = location(&String::from_utf8_lossy(&buffer[..length]), from.ip()) else {
            continue;
        };
        match get(at, &path).await {
            Ok(text) => match service_in(&text, at) {
                Some((service, path)) => return Some(Router { at, path, service }),
                None => tracing::debug!(%from, error = %UpnpError::NoService, "no router for us"),
            },
            Err(error) => tracing::debug!(%from, %error, "no router for us"),
        }
    }
    None
}

/// Reads where the description of whoever answered is: at its own address.
pub(crate) fn location(answer: &str, from: IpAddr) -> Option<(SocketAddrV4, String)> {
    let line = answer.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("location").then_some(value.trim())
    })?;
    at_home(line, from)
}

/// Splits an address of the web that is at `host`.
fn at_home(url: &str, host: IpAddr) -> Option<(SocketAddrV4, String)> {
    let rest = url.strip_prefix("http://")?;
    let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
    let at: SocketAddrV4 = place.parse().or_else(|_| format!("{place}:80").parse()).ok()?;
    (IpAddr::V4(*at.ip()) == host && path.bytes().all(|byte| byte.is_ascii_graphic()))
        .then(|| (at, format!("/{path}")))
}

/// Finds the best service that forwards ports in a description, and where it takes calls.
pub(crate) fn service_in(description: &str, at: SocketAddrV4) -> Option<(&'static str, String)> {
    SERVICES.into_iter().find_map(|service| {
        let blocks = description.split("<service>").skip(1);
        let block = blocks.into_iter().find(|block| inside(block, "serviceType") == Some(service))?;
        let url = inside(block, "controlURL")?;
        let path = if url.contains("://") {
            at_home(url, IpAddr::V4(*at.ip())).filter(|(there, _)| *there == at)?.1
        } else {
            format!("/{}", url.trim_start_matches('/'))
        };
        path.bytes().all(|byte| byte.is_ascii_graphic()).then_some((service, path))
    })
}

/// Returns the text of the first element of this name. Routers write plain XML; whatever else it is, it is no address.
fn inside<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut rest = text;
    loop {
        let (_, after) = rest.split_once('<')?;
        rest = after;
        let Some(tail) = after.strip_prefix(name) else { continue };
        if tail.starts_with('>') || tail.starts_with(char::is_whitespace) {
            let (_, value) = tail.split_once('>')?;
            return Some(value.split_once('<')?.0.trim());
        }
    }
}

async fn get(at: SocketAddrV4, path: &str) -> Result<String, UpnpError> {
    let request = Request::get(path).header(HOST, at.to_string()).body(Full::default());
    let request = request.map_err(|error| UpnpError::Silent(error.to_string()))?;
    Ok(exchange(at, request).await?.1)
}

/// Sends a request and returns whether it succeeded, and the answer.
async fn exchange(at: SocketAddrV4, request: Request<Full<Bytes>>) -> Result<(bool, String), UpnpError> {
    let silent = |error: &dyn std::fmt::Display| UpnpError::Silent(error.to_string());
    let exchange = async {
        let socket = TcpStream::connect(at).await.map_err(|error| silent(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(BODY_BYTES_MAX)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(|error| silent(&error))?;
        let answering = async {
            let answer = sender.send_request(request).await.map_err(|error| silent(&error))?;
            let succeeded = answer.status().is_success();
            let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
            let body = body.map_err(|error| silent(&error))?.to_bytes();
            Ok((succeeded, String::from_utf8_lossy(&body).into_owned()))
        };
        // It moves what both say; that it ended shows in the answer.
        let moving = connection.map(drop).then(|()| std::future::pending::<()>());
        tokio::select! {
            answer = answering => answer,
            () = moving => Err(UpnpError::Silent("it closed the connection".to_owned())),
        }
    };
    timeout(REQUEST_TIMEOUT, exchange)
        .await
        .unwrap_or_else(|_| Err(UpnpError::Silent("timed out".to_owned())))
}

impl Router {
    /// Has `port` of this machine forwarded, from the same port outside if that is free, and returns where that is.
    ///
    /// - `before`: the outer port that was granted before, to be renewed
    pub(super) async fn forward(
        &self,
        carrier: Carrier,
        port: NonZeroU16,
        before: Option<u16>,
    ) -> Result<SocketAddrV4, UpnpError> {
        let here = match source_of(SocketAddr::V4(self.at)) {
            Some(IpAddr::V4(ip)) => ip,
            _ => return Err(UpnpError::Silent("there is no way to it".to_owned())),
        };
        let answer = self.call("GetExternalIPAddress", "").await?;
        let outside = inside(&answer, "NewExternalIPAddress").and_then(|text| text.parse::<Ipv4Addr>().ok());
        let outside = outside.ok_or(UpnpError::NoAddress)?;
        let mut outer = before.unwrap_or(port.get());
        let (mut refused, mut lease) = (None, LEASE);
        for _ in 0..=OTHER_PORTS {
            let arguments = format!(
                "<NewRemoteHost></NewRemoteHost><NewExternalPort>{outer}</NewExternalPort>\
                 <NewProtocol>{}</NewProtocol><NewInternalPort>{port}</NewInternalPort>\
                 <NewInternalClient>{here}</NewInternalClient><NewEnabled>1</NewEnabled>\
                 <NewPortMappingDescription>worldcompute</NewPortMappingDescription>\
                 <NewLeaseDuration>{}</NewLeaseDuration>",
                carrier.name(),
                lease.as_secs()
            );
            match self.call("AddPortMapping", &arguments).await {
                Ok(_) => return Ok(SocketAddrV4::new(outside, outer)),
                // It is given back when this node ends; if it cannot be, it stays until the router restarts.
                Err(UpnpError::Refused(PERMANENT_ONLY)) if !lease.is_zero() => {
                    lease = Duration::ZERO;
                    continue;
                }
                Err(UpnpError::Refused(code)) => refused = Some(code),
                Err(error) => return Err(error),
            }
            // Taken, most likely.
            let mut bytes = [0; 2];
            let _ = getrandom::fill(&mut bytes);
            outer = 20_000 + u16::from_be_bytes(bytes) % 40_000;
        }
        Err(UpnpError::Refused(refused.unwrap_or(0)))
    }

    /// Gives an outer port back.
    pub(super) async fn give_back(&self, carrier: Carrier, outer: u16) -> Result<(), UpnpError> {
        let arguments = format!(
            "<NewRemoteHost></NewRemoteHost><NewExternalPort>{outer}</NewExternalPort><NewProtocol>{}</NewProtocol>",
            carrier.name()
        );
        self.call("DeletePortMapping", &arguments).await.map(drop)
    }

    async fn call(&self, action: &str, arguments: &str) -> Result<String, UpnpError> {
        let service = self.service;
        let body = format!(
            "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>\
             <u:{action} xmlns:u=\"{service}\">{arguments}</u:{action}></s:Body></s:Envelope>"
        );
        let request = Request::post(&self.path)
            .header(HOST, self.at.to_string())
            .header(CONTENT_TYPE, "text/xml; charset=\"utf-8\"")
            .header("SOAPAction", format!("\"{service}#{action}\""))
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| UpnpError::Silent(error.to_string()))?;
        let (succeeded, answer) = exchange(self.at, request).await?;
        if succeeded {
            return Ok(answer);
        }
        let code = inside(&answer, "errorCode").and_then(|code| code.parse().ok());
        Err(UpnpError::Refused(code.unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 1));

    #[test]
    fn whoever_answers_speaks_for_its_own_address_only() {
        let answer =
            |url: &str| location(&format!("HTTP/1.1 200 OK\r\nLocation: {url}\r\nST: x\r\n\r\n"), HOME);
        let at = "192.168.1.1:5000".parse().unwrap();
        assert_eq!(answer("http://192.168.1.1:5000/root.xml"), Some((at, "/root.xml".to_owned())));
        assert_eq!(answer("http://192.168.1.1/x").map(|(at, _)| at.port()), Some(80));
        for elsewhere in ["http://192.168.1.9:80/x", "http://bank.example/x", "https://192.168.1.1/", "x"] {
            assert_eq!(answer(elsewhere), None, "{elsewhere}");
        }
    }

    #[test]
    fn the_best_service_of_a_description_is_taken() {
        let service = |kind: &str, url: &str| {
            format!("<service>\n<serviceType>{kind}</serviceType><controlURL>{url}</controlURL></service>")
        };
        let at: SocketAddrV4 = "192.168.1.1:5000".parse().unwrap();
        let text = format!(
            "<?xml version=\"1.0\"?><root>{}{}{}</root>",
            service("urn:schemas-upnp-org:service:Layer3Forwarding:1", "/l3"),
            service(SERVICES[2], "/ppp"),
            service(SERVICES[1], "ip"),
        );
        assert_eq!(service_in(&text, at), Some((SERVICES[1], "/ip".to_owned())));
        let elsewhere = service(SERVICES[1], "http://192.168.1.2:5000/ip");
        assert_eq!(service_in(&elsewhere, at), None);
        let own = service(SERVICES[0], "http://192.168.1.1:5000/ip");
        assert_eq!(service_in(&own, at), Some((SERVICES[0], "/ip".to_owned())));
        for nothing in ["", "<service>", "<service><serviceType", "<<<>>>", "<service><serviceType>x"] {
            assert_eq!(service_in(nothing, at), None, "{nothing}");
        }
        assert_eq!(inside("<a dt:dt=\"string\"> 8.8.8.8 </a>", "a"), Some("8.8.8.8"));
        assert_eq!(inside("<ab>1</ab><a>2</a>", "a"), Some("2"));
    }

    /// Answers one call after the other with what `answer` makes of its body, and returns the bodies.
    async fn routed(listener: TcpListener, answer: impl Fn(&str) -> (u16, String)) -> Vec<String> {
        let mut bodies = Vec::new();
        while let Ok(Ok((mut socket, _))) = timeout(Duration::from_secs(2), listener.accept()).await {
            let mut call = Vec::new();
            while !String::from_utf8_lossy(&call).contains("</s:Envelope>") {
                assert_ne!(socket.read_buf(&mut call).await.unwrap(), 0, "a call that is cut off");
            }
            let call = String::from_utf8(call).unwrap();
            let (status, text) = answer(&call);
            let length = text.len();
            let head =
                format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
            socket.write_all((head + &text).as_bytes()).await.unwrap();
            bodies.push(call);
        }
        bodies
    }

    #[tokio::test]
    async fn a_router_that_knows_mappings_without_an_end_only_is_asked_for_one() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let SocketAddr::V4(at) = listener.local_addr().unwrap() else { panic!("IPv4") };
        let calls = tokio::spawn(routed(listener, |call| {
            if call.contains("GetExternalIPAddress") {
                (200, "<NewExternalIPAddress>192.0.2.7</NewExternalIPAddress>".to_owned())
            } else if call.contains("<NewLeaseDuration>0<") {
                (200, String::new())
            } else {
                (500, "<UPnPError><errorCode>725</errorCode></UPnPError>".to_owned())
            }
        }));
        let router = Router { at, path: "/ctl".to_owned(), service: SERVICES[1] };
        let outer = router.forward(Carrier::Udp, NonZeroU16::new(4000).unwrap(), None).await.unwrap();
        assert_eq!(outer, "192.0.2.7:4000".parse().unwrap(), "the same port");
        assert_eq!(calls.await.unwrap().len(), 3);
    }

    #[tokio::test]
    async fn a_router_that_never_stops_talking_is_cut_off() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let SocketAddr::V4(at) = listener.local_addr().unwrap() else { panic!("IPv4") };
        let sent = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let _ = socket.read(&mut [0; 4096]).await;
            socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let mut sent = 0_usize;
            while socket.write_all(&[b'x'; 65_536]).await.is_ok() {
                sent += 65_536;
            }
            sent
        });
        let router = Router { at, path: "/ctl".to_owned(), service: SERVICES[1] };
        let error = router.forward(Carrier::Tcp, NonZeroU16::new(19_999).unwrap(), None).await.unwrap_err();
        assert!(matches!(error, UpnpError::Silent(_)), "{error}");
        let sent = sent.await.unwrap();
        // What the two kernels hold comes on top.
        assert!(sent < 32 << 20, "{sent} bytes went out");
    }
}
