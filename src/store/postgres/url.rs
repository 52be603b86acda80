//! The address of a database: `postgresql://user@host:port/name?sslmode=verify-full&sslrootcert=…`.
//!
//! TLS is verified, with the host's name, or it is off: what lies between (`prefer`, `require` without
//! a root, `verify-ca`) protects from nobody who can answer in the server's place, and is refused.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs, version};

use crate::error::{Error, ErrorKind, Result};

const SCHEMES: [&str; 2] = ["postgresql://", "postgres://"];
/// Where distributions keep the roots that the system trusts.
const SYSTEM_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Where the database is and how to get there.
pub(super) struct Target {
    pub(super) config: Config,
    /// None without TLS.
    pub(super) tls: Option<Arc<ClientConfig>>,
}

/// Whether this is the address of a database rather than a path.
pub fn is_url(location: &str) -> bool {
    SCHEMES.iter().any(|scheme| location.starts_with(scheme))
}

/// The address without user, password and parameters.
pub(in crate::store) fn without_secrets(url: &str) -> String {
    let address = url.split_once('?').map_or(url, |(address, _)| address);
    match (address.split_once("://"), address.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://{place}"),
        _ => address.to_owned(),
    }
}

/// The parameters that the client knows of libpq's, besides those of `Config`.
#[derive(Default)]
struct Ssl {
    mode: Option<String>,
    root: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
}

impl Target {
    /// Without a word on TLS it is verified over TCP, and off on a Unix socket.
    pub(super) fn parse(url: &str) -> Result<Self> {
        if !is_url(url) {
            return Err(bad("it does not begin with postgresql://"));
        }
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        let mut ssl = Ssl::default();
        let mut rest = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(|| bad("a parameter has no value"))?;
            let place = match name {
                "sslmode" => &mut ssl.mode,
                "sslrootcert" => &mut ssl.root,
                "sslcert" => &mut ssl.certificate,
                "sslkey" => &mut ssl.key,
                _ => {
                    rest.push(pair);
                    continue;
                }
            };
            let value = percent_decode_str(value).decode_utf8().map_err(|_| bad("a parameter is not UTF-8"))?;
            *place = Some(value.into_owned());
        }
        let separator = if rest.is_empty() { "" } else { "?" };
        let mut config: Config = format!("{address}{separator}{}", rest.join("&"))
            .parse()
            .map_err(|error: tokio_postgres::Error| bad(&cause(&error)))?;
        if config.get_hosts().is_empty() {
            return Err(bad("it names no host"));
        }
        if config.get_application_name().is_none() {
            config.application_name("conclave");
        }
        let remote = config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(_)));
        let tls = match ssl.mode.as_deref() {
            Some("disable") => None,
            None if !remote => None,
            None | Some("verify-full") => Some(Arc::new(ssl.client()?)),
            Some(other) => {
                return Err(bad(&format!("sslmode={other} does not tell who answers; use verify-full, or disable")));
            }
        };
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        Ok(Self { config, tls })
    }
}

/// Without user and password.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgresql://")?;
        for (index, host) in self.config.get_hosts().iter().enumerate() {
            f.write_str(if index == 0 { "" } else { "," })?;
            match host {
                Host::Tcp(name) => f.write_str(name)?,
                Host::Unix(path) => write!(f, "{}", path.display())?,
            }
            let ports = self.config.get_ports();
            if let Some(port) = ports.get(index).or_else(|| ports.first()) {
                write!(f, ":{port}")?;
            }
        }
        write!(f, "/{}", self.config.get_dbname().unwrap_or_default())
    }
}

impl Ssl {
    fn client(&self) -> Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        let path = match self.root.as_deref() {
            Some(path) if path != "system" => path,
            _ => SYSTEM_ROOTS
                .into_iter()
                .find(|path| Path::new(path).exists())
                .ok_or_else(|| bad("the system has no file of trusted roots; name one by sslrootcert"))?,
        };
        for certificate in certificates(path)? {
            // A system's file may have roots of a kind that is not known here.
            let _ = roots.add(certificate);
        }
        if roots.is_empty() {
            return Err(bad(&format!("{path} has no usable certificate")));
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(|error| bad(&error.to_string()))?
            .with_root_certificates(roots);
        match (&self.certificate, &self.key) {
            (None, None) => Ok(builder.with_no_client_auth()),
            (Some(certificate), Some(key)) => {
                let own = PrivateKeyDer::from_pem_file(key).map_err(|error| bad(&format!("{key}: {error}")))?;
                builder
                    .with_client_auth_cert(certificates(certificate)?, own)
                    .map_err(|error| bad(&format!("{certificate}: {error}")))
            }
            _ => Err(bad("sslcert and sslkey go together")),
        }
    }
}

fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    all.map_err(|error: tokio_rustls::rustls::pki_types::pem::Error| bad(&format!("{path}: {error}")))
}

/// Never with the address itself, which may hold a password.
fn bad(why: &str) -> Error {
    ErrorKind::ArgumentsBad.with(format!("the database's address: {why}"))
}

/// The innermost reason.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        Target::parse(url).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn tls_is_verified_or_off() {
        for url in ["postgresql:///x?host=/run/postgresql", "postgres://a@h/x?sslmode=disable"] {
            assert!(Target::parse(url).unwrap().tls.is_none(), "{url}");
        }
        for mode in ["prefer", "require", "verify-ca", "allow", ""] {
            assert!(refused(&format!("postgresql://a@h/x?sslmode={mode}")).contains("verify-full"), "{mode}");
        }
        let missing = refused("postgresql://a@h/x?sslmode=verify-full&sslrootcert=%2Fno%2Fsuch.pem");
        assert!(missing.contains("/no/such.pem"), "{missing}");
    }

    #[test]
    fn an_address_is_told_without_its_secrets() {
        let target = Target::parse("postgresql://anna:geheim@one:5433,two:5434/keys?sslmode=disable").unwrap();
        assert_eq!(target.to_string(), "postgresql://one:5433,two:5434/keys");
        for url in ["/var/lib/x", "postgresql://anna:geheim@h:port/x", "postgresql://anna:geheim@h/x?colour=red"] {
            let error = refused(url);
            assert!(error.contains("the database's address") && !error.contains("geheim"), "{error}");
        }
    }
}
