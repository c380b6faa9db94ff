//! `amop keys`, and how other commands read keys.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;
use zeroize::Zeroizing;

use super::{Failure, help::examples, output::OutputArgs};
use crate::{
    encoding,
    escape::{shown_json, shown_path},
    files::{Unnamed, directory, write_new},
    keys::{
        PrivateKey, PublicKey,
        file::{Key, KeyFile, KeyFileError},
    },
};

/// Where a password is looked for before it is asked for.
const PASSWORD_VARIABLE: &str = "AMOP_KEY_PASSWORD";

#[derive(Args)]
#[command(after_help = examples(
    &[
        ("amop keys new", "a key for a subscriber"),
        ("amop keys convert accounts/0x….pem --to public-pem", "what its publishers need"),
    ],
    &[],
))]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Subcommand)]
enum KeysCommand {
    /// Make a key, in the files that get_account.sh makes, named after its address.
    #[command(after_help = examples(
        &[
            ("amop keys new", "accounts/0x….pem, 0x….public.pem and 0x….pem.pub"),
            ("amop keys new --format p12", "accounts/0x….p12 with a password, and the public key"),
            ("amop sub deals --private-key accounts/0x….pem", ""),
            ("amop pub deals '5 to bob' --public-key accounts/0x….public.pem", ""),
        ],
        &[
        ],
    ))]
    New {
        /// Form of the private key.
        #[arg(long, value_enum, default_value = "pem")]
        format: PrivateFormat,
        /// Directory for the files.
        #[arg(long, value_name = "DIR", default_value = "accounts")]
        out: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        password: PasswordArgs,
        #[command(flatten)]
        overwrite: OverwriteArgs,
    },
    /// Show the address and the public key of a key: PEM, PKCS#12 or hex digits.
    #[command(after_help = examples(
        &[("amop keys show accounts/0x….pem", ""), ("amop keys show key.p12 --password-file password.txt -o json", "")],
        &[],
    ))]
    Show {
        /// The key's file.
        file: PathBuf,
        #[command(flatten)]
        output: OutputArgs,
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Write a key in another form.
    #[command(after_help = examples(
        &[
            ("amop keys convert accounts/0x….pem --to p12 --out key.p12", ""),
            ("amop keys convert key.p12 --to public-pem --out subscriber.public.pem", "what publishers need"),
            ("amop keys convert key.p12 --to public-hex", "on standard output"),
        ],
        &[
        ],
    ))]
    Convert {
        /// The key's file.
        file: PathBuf,
        /// Form to write it in.
        #[arg(long, value_enum)]
        to: Format,
        /// Where to; public keys go to standard output without it.
        #[arg(long, short_alias = 'o', value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        password: PasswordArgs,
        #[command(flatten)]
        overwrite: OverwriteArgs,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum PrivateFormat {
    /// PKCS#8 in PEM, without a password.
    Pem,
    /// PKCS#12, with a password.
    P12,
    /// 64 hex digits, without a password.
    Hex,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    /// The private key as PKCS#8 in PEM, without a password.
    Pem,
    /// The private key as PKCS#12, with a password.
    P12,
    /// The private key as 64 hex digits, without a password.
    Hex,
    /// The public key in PEM.
    PublicPem,
    /// The public key as 128 hex digits.
    PublicHex,
}

#[derive(Args)]
struct OverwriteArgs {
    /// Replace files that are there.
    #[arg(long)]
    force: bool,
}

/// Where the password of a PKCS#12 file is from.
#[derive(Args)]
pub(super) struct PasswordArgs {
    /// File whose first line is the password of a PKCS#12 key. Without it: the environment variable
    /// AMOP_KEY_PASSWORD, else it is asked for.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl PasswordArgs {
    /// The password; a new one is asked for twice.
    fn read(&self, for_what: &Path, is_new: bool) -> Result<Zeroizing<String>, Failure> {
        if let Some(file) = &self.password_file {
            let bytes = std::fs::read(file).map(Zeroizing::new);
            let bytes = bytes.map_err(|error| format!("{}: {error}", shown_path(file)))?;
            let text = encoding::text(&bytes)
                .map_err(|error| format!("{}: line {}: {error}", shown_path(file), error.line()))?;
            return Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()));
        }
        match std::env::var(PASSWORD_VARIABLE) {
            Ok(password) => return Ok(Zeroizing::new(password)),
            Err(std::env::VarError::NotPresent) => {}
            Err(error) => return Err(format!("{PASSWORD_VARIABLE}: {error}").into()),
        }
        let ask = |prompt: String| {
            rpassword::prompt_password(prompt).map(Zeroizing::new).map_err(|error| {
                format!(
                    "{} needs a password, and there is no terminal to ask on ({error}): give --password-file or \
                     {PASSWORD_VARIABLE}",
                    shown_path(for_what)
                )
            })
        };
        let password = ask(format!("Password of {}: ", shown_path(for_what)))?;
        if is_new && ask("The same again: ".to_owned())? != password {
            return Err("the two passwords differ; nothing was written".into());
        }
        Ok(password)
    }

    /// The key in a file, with its password if it has one.
    fn key(&self, path: &Path) -> Result<Key, Failure> {
        let at = |error: KeyFileError| format!("{}: {error}", shown_path(path));
        let file = KeyFile::read(path).map_err(at)?;
        let password =
            if file.needs_password() { self.read(path, false)? } else { Zeroizing::new(String::new()) };
        Ok(file.key(&password).map_err(at)?)
    }

    /// The private key in a file.
    pub(super) fn private_key(&self, path: &Path) -> Result<PrivateKey, Failure> {
        let key = self.key(path)?.into_private();
        Ok(key.map_err(|error| format!("{}: {error}", shown_path(path)))?)
    }
}

/// The public key in a file, or of hex digits.
pub(super) fn public_key(file_or_digits: &str) -> Result<PublicKey, Failure> {
    let path = Path::new(file_or_digits);
    let file = if path.exists() {
        KeyFile::read(path)
    } else {
        KeyFile::new(Zeroizing::new(file_or_digits.as_bytes().to_vec()))
    };
    let key = file.and_then(|file| {
        // Whatever has a password holds a private key.
        if file.needs_password() { Err(KeyFileError::NotPublic) } else { file.key("")?.into_public() }
    });
    Ok(key.map_err(|error| match error {
        KeyFileError::Unknown if !path.exists() => {
            format!("{file_or_digits:?} is neither a file nor the 128 hex digits of a public key")
        }
        error => format!("{file_or_digits}: {error}"),
    })?)
}

pub(super) fn run(args: &KeysArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        KeysCommand::New { format, out, output, password, overwrite } => {
            let made = new(*format, out, password, overwrite)?;
            print(&made, *output)?;
        }
        KeysCommand::Show { file, output, password } => print(&Shown::of(&password.key(file)?), *output)?,
        KeysCommand::Convert { file, to, out, password, overwrite } => {
            convert(file, *to, out.as_deref(), password, overwrite)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What is shown of a key.
#[derive(Serialize)]
struct Shown {
    address: String,
    public_key: String,
    /// Of a new one, where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    private_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    public_file: Option<PathBuf>,
}

impl Shown {
    fn of(key: &Key) -> Self {
        let public = key.public_key();
        let (address, public_key) = (public.address_hex(), public.to_string());
        Self { address, public_key, private_file: None, public_file: None }
    }
}

fn print(shown: &Shown, output: OutputArgs) -> Result<(), Failure> {
    if output.is_json() {
        line!("{}", shown_json(&serde_json::to_string(shown)?))?;
        return Ok(());
    }
    line!("address      {}", shown.address)?;
    line!("public key   {}", shown.public_key)?;
    for (what, file) in [("private file", &shown.private_file), ("public file ", &shown.public_file)] {
        if let Some(file) = file {
            line!("{what} {}", shown_path(file))?;
        }
    }
    Ok(())
}

fn new(
    format: PrivateFormat,
    dir: &Path,
    password: &PasswordArgs,
    overwrite: &OverwriteArgs,
) -> Result<Shown, Failure> {
    let key = PrivateKey::generate();
    let public = key.public_key();
    let (format, suffix) = match format {
        PrivateFormat::Pem => (Format::Pem, "pem"),
        PrivateFormat::P12 => (Format::P12, "p12"),
        PrivateFormat::Hex => (Format::Hex, "hex"),
    };
    let file = |suffix: &str| dir.join(format!("{}.{suffix}", public.address_hex()));
    let private_file = file(suffix);
    let private = encode(&Key::Private(key.clone()), format, password, &private_file)?;
    std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", shown_path(dir)))?;
    overwrite.write(&private_file, &private, true)?;
    let public_file = file("public.pem");
    // The script gives the public key both names, and the SDK looks for either.
    for file in [&public_file, &file("pem.pub")] {
        overwrite.write(file, public.to_pem()?.as_bytes(), false)?;
    }
    let (private_file, public_file) = (Some(private_file), Some(public_file));
    Ok(Shown { private_file, public_file, ..Shown::of(&Key::Private(key)) })
}

fn convert(
    file: &Path,
    to: Format,
    out: Option<&Path>,
    password: &PasswordArgs,
    overwrite: &OverwriteArgs,
) -> Result<(), Failure> {
    let is_private = !matches!(to, Format::PublicPem | Format::PublicHex);
    if is_private && out.is_none() {
        return Err("a private key is not shown: give --out FILE".into());
    }
    let key = password.key(file)?;
    let encoded = encode(&key, to, password, out.unwrap_or(file))
        .map_err(|error| format!("{}: {error}", shown_path(file)))?;
    match out {
        Some(out) => overwrite.write(out, &encoded, is_private)?,
        None => line!("{}", String::from_utf8_lossy(&encoded).trim_end())?,
    }
    Ok(())
}

/// What a file of a key holds; a password for it is asked for as that of `path`.
fn encode(
    key: &Key,
    format: Format,
    password: &PasswordArgs,
    path: &Path,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let private = || key.clone().into_private();
    let bytes = |text: &str| Zeroizing::new(text.as_bytes().to_vec());
    let line = |text: &str| Zeroizing::new(format!("{text}\n").into_bytes());
    Ok(match format {
        Format::Pem => bytes(&private()?.to_pem()?),
        Format::P12 => {
            let private = private()?;
            private.to_p12(&password.read(path, true)?)?
        }
        Format::Hex => line(&private()?.to_hex()),
        Format::PublicPem => bytes(&key.public_key().to_pem()?),
        Format::PublicHex => line(&key.public_key().to_string()),
    })
}

impl OverwriteArgs {
    /// Writes a file whole or not at all, and over another one only if told so.
    fn write(&self, path: &Path, bytes: &[u8], is_private: bool) -> Result<(), Failure> {
        let writing = || {
            let mode = if is_private { 0o600 } else { 0o644 };
            // A device or a link is no file of ours to replace.
            let is_file = std::fs::symlink_metadata(path).is_ok_and(|there| there.is_file());
            if self.force && is_file {
                return Unnamed::write(directory(path), bytes, mode)?.replace(path);
            }
            write_new(path, bytes, mode)
        };
        writing().map_err(|error: std::io::Error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                format!("{} exists already and was not changed; --force replaces a file", shown_path(path))
                    .into()
            }
            _ => format!("{}: {error}", shown_path(path)).into(),
        })
    }
}
