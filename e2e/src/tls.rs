//! Certificates of the tests' own, made by openssl(1).

use crate::Result;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An authority, in a directory of its own.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub cert: PathBuf,
    /// The key.
    pub key: PathBuf,
}

impl Authority {
    /// A new one, in a directory that is made.
    pub fn new(dir: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let authority = Self { dir };
        let args = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=e2e-authority -keyout ca.key -out ca.pem";
        authority.openssl(args)?;
        Ok(authority)
    }

    /// Its own certificate.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// A certificate for 127.0.0.1 and localhost.
    pub fn server(&self) -> Result<Pair> {
        self.issue(
            "server",
            "ec -pkeyopt ec_paramgen_curve:P-256",
            "subjectAltName=IP:127.0.0.1,DNS:localhost",
        )
    }

    /// A certificate for 127.0.0.1 that was good until yesterday.
    pub fn expired(&self) -> Result<Pair> {
        self.issue_for("expired", "ec -pkeyopt ec_paramgen_curve:P-256", "subjectAltName=IP:127.0.0.1", -1)
    }

    /// A certificate for a host of another name.
    pub fn misnamed(&self) -> Result<Pair> {
        self.issue("misnamed", "ec -pkeyopt ec_paramgen_curve:P-256", "subjectAltName=DNS:elsewhere.example")
    }

    /// A certificate for a client.
    pub fn client(&self) -> Result<Pair> {
        self.issue("client", "ec -pkeyopt ec_paramgen_curve:P-256", "extendedKeyUsage=clientAuth")
    }

    /// A certificate with an RSA key, to sign tokens with.
    pub fn signer(&self) -> Result<Pair> {
        self.issue("signer", "rsa:2048", "keyUsage=digitalSignature")
    }

    fn issue(&self, name: &str, key: &str, extension: &str) -> Result<Pair> {
        self.issue_for(name, key, extension, 2)
    }

    fn issue_for(&self, name: &str, key: &str, extension: &str, days: i32) -> Result<Pair> {
        self.openssl(&format!(
            "req -newkey {key} -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ))?;
        std::fs::write(self.dir.join("ext"), format!("{extension}\n"))?;
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} -extfile ext -out {name}.pem"
        ))?;
        let at = |suffix: &str| self.dir.join(format!("{name}.{suffix}"));
        Ok(Pair { cert: at("pem"), key: at("key") })
    }

    fn openssl(&self, args: &str) -> Result<()> {
        run(&self.dir, args.split(' ')).map(drop)
    }
}

impl Pair {
    /// Signs with RSA and SHA-256 (PKCS #1 v1.5).
    pub fn sign(&self, text: &[u8]) -> Result<Vec<u8>> {
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("text"), text)?;
        let key = self.key.display().to_string();
        run(dir.path(), ["dgst", "-sha256", "-sign", &key, "text"].into_iter())
    }

    /// The certificate's DER in base64: what stands between PEM's lines.
    pub fn der_base64(&self) -> Result<String> {
        let pem = std::fs::read_to_string(&self.cert)?;
        Ok(pem.lines().filter(|line| !line.starts_with('-')).collect())
    }
}

fn run<'a>(dir: &Path, args: impl Iterator<Item = &'a str>) -> Result<Vec<u8>> {
    let done = Command::new("openssl").args(args).current_dir(dir).output();
    let done = done.map_err(|e| format!("openssl: {e}; install Debian's openssl (hack/deps does)"))?;
    if done.status.success() {
        return Ok(done.stdout);
    }
    Err(format!("openssl: {}", String::from_utf8_lossy(&done.stderr)).into())
}
