//! What has to live inside a namespace of the lab, each as its own process that ends with its standard input.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use wc_tests_net::dns::{self, Record};
use wc_tests_net::middle::{self, Authority, Reader};
use wc_tests_net::{link, probe};

type Any = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    // The first to ask decides; nobody has asked yet.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netbox {words:?}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<(), Any> {
    match words {
        ["probe", first, second] => {
            println!("{}", serde_json::to_string(&probe::client([first.parse()?, second.parse()?])?)?);
            Ok(())
        }
        ["echoes", server, count, every_ms] => {
            let every = Duration::from_millis(every_ms.parse()?);
            let echoes = probe::echoes(server.parse()?, count.parse()?, every)?;
            println!("{}", serde_json::to_string(&echoes)?);
            Ok(())
        }
        ["probe-server", first, second] => {
            probe::serve([first.parse()?, second.parse()?])?;
            ready()
        }
        ["link", near, far, link, seed] => {
            link::run(near, far, serde_json::from_str(link)?, seed.parse()?)?;
            ready()
        }
        ["proxy", listen, credentials] => {
            Ok(middle::block(middle::proxy(listen.parse()?, (*credentials).to_owned(), None))?)
        }
        ["reading-proxy", listen, credentials, authority] => {
            let reader = Arc::new(Reader::new(authority.as_ref())?);
            Ok(middle::block(middle::proxy(listen.parse()?, (*credentials).to_owned(), Some(reader)))?)
        }
        ["reader", listen, authority] => {
            let reader = Arc::new(Reader::new(authority.as_ref())?);
            Ok(middle::block(reader.serve(listen.parse()?))?)
        }
        ["dns", listen, manner, records @ ..] => {
            dns::serve(listen.parse()?, manner.parse()?, known(records)?)?;
            ready()
        }
        ["doh", listen, name, authority, records @ ..] => {
            let authority = Authority::new("Lab Authority", authority.as_ref())?;
            Ok(middle::block(dns::serve_https(listen.parse()?, &authority, name, known(records)?))?)
        }
        // Another program, made to end with our standard input.
        ["keep", program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn()?;
            let ended = ready();
            child.kill()?;
            child.wait()?;
            ended
        }
        _ => Err("netbox probe|echoes|probe-server|link|proxy|reading-proxy|reader|dns|doh|keep".into()),
    }
}

/// Reads records: NAME=ADDRESS or NAME=TEXT.
fn known(words: &[&str]) -> Result<HashMap<String, Vec<Record>>, Any> {
    let mut known: HashMap<String, Vec<Record>> = HashMap::new();
    for record in words {
        let (name, value) = record.split_once('=').ok_or("a record is NAME=VALUE")?;
        let value = value.parse().map_or_else(|_| Record::Text(value.to_owned()), Record::Address);
        known.entry(name.to_owned()).or_default().push(value);
    }
    Ok(known)
}

/// Says so, and waits for the end of the standard input.
fn ready() -> Result<(), Any> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "ready")?;
    stdout.flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
