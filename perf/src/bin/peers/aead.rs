//! The AEAD alone: records sealed and opened in memory, as a node does it once each for a hop.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use amop::internal::{
    load::Usage,
    tls::record::{Aead, ContentType, Opener, PLAINTEXT_LEN_MAX, Sealer, record_len},
};
use clap::Args;
use rustls::ProtocolVersion;

#[derive(Args)]
pub(crate) struct AeadArgs {
    /// Length of a frame in bytes.
    #[arg(long, default_value_t = 313)]
    frame: usize,
    /// Frames that share records, up to full ones.
    #[arg(long, default_value_t = 1)]
    frames_per_record: usize,
    #[arg(long, default_value_t = 2)]
    seconds: u64,
}

/// Prints processor time for each frame that is sealed once and opened once, in microseconds.
pub(crate) fn run(args: &AeadArgs) -> Result<(), Box<dyn Error>> {
    let plaintext = vec![b'x'; args.frame * args.frames_per_record];
    let keys = (ProtocolVersion::TLSv1_2, Aead::Aes128Gcm, [7; 16], [0; 12]);
    let mut sealer = Sealer::from_secrets(keys.0, keys.1, &keys.2, keys.3, 0).ok_or("no keys")?;
    let mut opener = Opener::from_secrets(keys.0, keys.1, &keys.2, keys.3, 0).ok_or("no keys")?;
    let (mut frames, before, start) = (0u64, Usage::own(), Instant::now());
    let mut records = Vec::new();
    while start.elapsed() < Duration::from_secs(args.seconds) {
        for _ in 0..16 {
            records.clear();
            for part in plaintext.chunks(PLAINTEXT_LEN_MAX) {
                sealer.seal(ContentType::ApplicationData, &[part], &mut records)?;
            }
            let mut rest = records.as_mut_slice();
            while let Some(len) = record_len(rest)? {
                let (record, others) = rest.split_at_mut(len);
                opener.open_in_place(record)?;
                rest = others;
            }
            frames += args.frames_per_record as u64;
        }
    }
    let used = Usage::own().since(&before);
    let each = used.processor().as_secs_f64() * 1e6 / frames as f64;
    println!(
        "{}",
        serde_json::json!({
            "frame": args.frame, "frames_per_record": args.frames_per_record, "cpu_us_each": each,
            "user_us_each": used.user.as_secs_f64() * 1e6 / frames as f64,
        })
    );
    Ok(())
}
