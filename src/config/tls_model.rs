//! What config.yaml may say of tokens and certificates, and the rules of that.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rollcall_tls::Files as _;
use serde_json::{Value as Json, json};

use super::node::{At, Node, Place, Value as Tree};
use super::reader::{Located, Reader, Value, section};
use super::values::Text;
use crate::trust::{ClientFiles, Fault, Identity, Part, ServerFiles, Token};

/// Shorter secrets can be guessed.
const SHORTEST_TOKEN: usize = 16;
/// Longer ones are no tokens; a header has to carry them.
const LONGEST_TOKEN: usize = 4_096;

section! {
    /// What a listener shows, and whose certificates it asks for. The files are followed: a new certificate is taken up without a restart.
    struct ServerTls {
        /// The certificate, and those between it and its authority; PEM.
        cert: Located<Text>;
        /// Its private key; PEM, and nobody else may read it.
        key: Located<Text>;
        /// The authorities of workers' certificates; PEM. With it, a worker shows one that has its name, or its pool's, among its DNS names. Omitted: workers show none.
        client_ca: Option<Located<Text>> = None;
    }
    later []
}

section! {
    /// Whom to believe, and what to show, over wss:// or https://. The files are followed.
    struct ClientTls {
        /// The authorities that are believed; PEM. Omitted: those of the operating system.
        ca: Option<Located<Text>> = None;
        /// What is shown to who asks for it, and those between it and its authority; PEM. Omitted: nothing.
        cert: Option<Located<Text>> = None;
        /// Its private key; PEM, and nobody else may read it.
        key: Option<Located<Text>> = None;
    }
    later []
}

section! {
    /// A listener for workers that dial in, and for nothing else.
    struct WorkersDoor {
        /// Where it listens. Off loopback only with `tls`.
        listen: Located<Address>;
        /// Its certificate. Omitted: it speaks without TLS, on loopback alone.
        tls: Option<Located<ServerTls>> = None;
    }
    later []
}

/// The same, or its address alone.
#[derive(Debug, Clone)]
pub(super) struct WorkersListen(pub(super) WorkersDoor);

impl Value for WorkersListen {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let door = match &node.value {
            Tree::Scalar(_) => WorkersDoor { listen: Located::read(node, at, reader)?, tls: None },
            Tree::List(_) | Tree::Map(_) | Tree::Wrong => WorkersDoor::read(node, at, reader)?,
        };
        Some(Self(door))
    }

    fn schema() -> Json {
        json!({ "anyOf": [Address::schema(), WorkersDoor::schema()] })
    }

    fn written(&self) -> Option<Json> {
        None
    }
}

/// An address and a port of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address(pub(super) SocketAddr);

impl Address {
    /// Reads one; `localhost` is understood.
    pub(super) fn parse(text: &str) -> Option<SocketAddr> {
        match text.strip_prefix("localhost:") {
            Some(port) => Some(SocketAddr::from(([127, 0, 0, 1], port.parse().ok()?))),
            None => text.parse().ok(),
        }
    }
}

impl Value for Address {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        let address = node.word().and_then(Self::parse);
        let expected = || "an address and a port, such as 0.0.0.0:7610".to_owned();
        reader.or_wanted(address, node, at, expected).map(Self)
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"^(localhost|[0-9.]+|\[[0-9a-fA-F:.]+\]):[0-9]+$|\$\{" })
    }

    fn written(&self) -> Option<Json> {
        Some(self.0.to_string().into())
    }
}

/// A secret, which stands outside of the file.
#[derive(Debug, Clone)]
pub(super) struct Secret(pub(super) Token);

impl Value for Secret {
    fn read(node: &Node<'_>, at: &At<'_>, reader: &mut Reader<'_>) -> Option<Self> {
        if let Tree::Scalar(scalar) = &node.value
            && !scalar.hidden
            && !node.is_null()
            && reader.is_of_file()
        {
            // The text is not shown: the message goes to logs.
            let message = "is written out, where everybody can read it who has the file; put it in from outside, \
                           as \"${NAME}\" or \"${file:/path}\"";
            reader.problem(node.place, at, message);
            return None;
        }
        let fits = |text: &&str| {
            (SHORTEST_TOKEN..=LONGEST_TOKEN).contains(&text.len())
                && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let token = node.word().filter(fits).map(|text| Self(Token::new(text)));
        if token.is_none() {
            let message = format!(
                "must have {SHORTEST_TOKEN} to {LONGEST_TOKEN} visible ASCII characters (`openssl rand -hex 32` makes a good one)"
            );
            reader.problem(node.place, at, message);
        }
        token
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": r"\$\{" })
    }

    fn written(&self) -> Option<Json> {
        None
    }
}

/// The files that certificates are in, each set judged once: a template may be shared by thousands.
pub(super) struct Certificates<'e> {
    folder: &'e Path,
    judged: HashMap<ClientFiles, Vec<Fault>>,
}

impl<'e> Certificates<'e> {
    /// Relative paths start at this folder.
    pub(super) fn new(folder: &'e Path) -> Self {
        Self { folder, judged: HashMap::new() }
    }

    fn path(&self, text: &Text) -> PathBuf {
        self.folder.join(text.0.strip_prefix("./").unwrap_or(&text.0))
    }

    /// A listener's.
    pub(super) fn server(
        &self,
        tls: &Located<ServerTls>,
        at: &At<'_>,
        reader: &mut Reader<'_>,
    ) -> ServerFiles {
        let ServerTls { cert, key, client_ca } = &tls.value;
        let identity = Identity { cert: self.path(&cert.value), key: self.path(&key.value) };
        let files =
            ServerFiles { identity, client_ca: client_ca.as_ref().map(|path| self.path(&path.value)) };
        let place = |part| match part {
            Part::Cert => cert.place,
            Part::Key => key.place,
            Part::ClientCa | Part::Ca => client_ca.as_ref().map_or(tls.place, |path| path.place),
        };
        for fault in files.load().err().unwrap_or_default() {
            tell(&fault, place(fault.part), at, reader);
        }
        files
    }

    /// Those for speaking to somebody else.
    pub(super) fn client(
        &mut self,
        tls: &Located<ClientTls>,
        at: &At<'_>,
        reader: &mut Reader<'_>,
    ) -> ClientFiles {
        let ClientTls { ca, cert, key } = &tls.value;
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => {
                Some(Identity { cert: self.path(&cert.value), key: self.path(&key.value) })
            }
            (Some(there), None) => {
                reader.problem(
                    there.place,
                    &at.field("key"),
                    "is missing; a certificate is shown with its key",
                );
                None
            }
            (None, Some(there)) => {
                reader.problem(there.place, &at.field("cert"), "is missing; the key alone says nothing");
                None
            }
            (None, None) => None,
        };
        let files = ClientFiles { ca: ca.as_ref().map(|path| self.path(&path.value)), identity };
        let written = |field: &Option<Located<Text>>| field.as_ref().map_or(tls.place, |path| path.place);
        for fault in self.judge(&files).clone() {
            let place = match fault.part {
                Part::Cert => written(cert),
                Part::Key => written(key),
                Part::ClientCa | Part::Ca => written(ca),
            };
            tell(&fault, place, at, reader);
        }
        files
    }

    /// What is wrong with those that are meant where nothing is said.
    pub(super) fn usual(&mut self, place: Place, at: &At<'_>, reader: &mut Reader<'_>) {
        for fault in self.judge(&ClientFiles::default()).clone() {
            tell(&fault, place, &at.field("tls"), reader);
        }
    }

    fn judge(&mut self, files: &ClientFiles) -> &Vec<Fault> {
        self.judged.entry(files.clone()).or_insert_with(|| files.load().err().unwrap_or_default())
    }
}

fn tell(fault: &Fault, place: Place, at: &At<'_>, reader: &mut Reader<'_>) {
    reader.problem(place, &at.field(fault.part.as_str()), fault.message.clone());
}
