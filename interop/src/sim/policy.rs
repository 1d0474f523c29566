//! Settings of the engines in a simulated set-up.

use std::time::Duration;

use homa_client::ConfigError;
use homa_client::engine::{Settings, UnschedCutoffs};

use super::link;
use super::setup::{Cutoffs, EngineSetup, Setup};
use super::workload::{MAX_BYTES, Workload};

/// Granted bytes of one message under way in that simulation (`maxOutstandingRecvBytes`).
const GRANT_WINDOW: usize = 10_000;

/// Longer than any run.
const NEVER: Duration = Duration::from_secs(1000);

/// Levels of that simulation.
const LEVELS: u8 = 8;

/// Most messages that an engine grants to at the same time.
const MAX_OVERCOMMIT: usize = 8;

/// The engine's settings: what the set-up says; else what SIGCOMM'18's simulation had, a grant for
/// every packet and the split of levels among it; else the engine's own default.
pub(crate) fn settings(setup: &Setup, workload: &Workload) -> Result<Settings, ConfigError> {
    let EngineSetup {
        num_priorities,
        cutoffs,
        scheduled_levels,
        max_overcommit,
        unsched_bytes,
        unsched_windows,
        max_incoming,
        grant_window,
        min_grant,
        fifo_fraction,
        fifo_increment,
        boost_tail,
        unsched_by_remaining,
        pacing,
        packet_payload,
        scheduled_payload,
        main_buffer_bytes,
        resend_us,
    } = setup.engine;
    let mut settings = Settings::default();
    let levels = num_priorities.unwrap_or(LEVELS);
    let unsched_bytes = unsched_bytes.unwrap_or(link::UNSCHEDULED_BYTES as usize);
    let scheduled = scheduled_levels
        .or(workload
            .published
            .map(|published| published.scheduled_levels))
        .map(|scheduled| scheduled.min(levels.saturating_sub(1)).max(1));
    settings.num_priorities = levels;
    settings.scheduled_levels = scheduled;
    settings.unsched_bytes = Some(unsched_bytes);
    settings.packet_payload = packet_payload.unwrap_or(link::UNSCHEDULED_PAYLOAD as usize);
    settings.scheduled_payload =
        Some(scheduled_payload.unwrap_or(link::SCHEDULED_PAYLOAD as usize));
    settings.grant_window = Some(grant_window.unwrap_or(GRANT_WINDOW));
    settings.min_grant = Some(min_grant.unwrap_or(1));
    // One message for each scheduled level, as in that simulation.
    let overcommit = scheduled.map_or(settings.max_overcommit, usize::from);
    settings.max_overcommit = max_overcommit.unwrap_or(overcommit.min(MAX_OVERCOMMIT));
    // That simulation loses nothing, and has no timers.
    let resend = resend_us.map(Duration::from_micros);
    if let Some(resend) = resend.or(setup.topology.is_lossless().then_some(NEVER)) {
        settings.timers.resend = resend;
        settings.timers.timeout = settings.timers.timeout.max(3 * resend);
    }
    // A host that pulls packets when its link is free needs no pacer.
    settings.pacing = pacing.unwrap_or(false);
    let own = Settings::default();
    settings.unsched_windows = unsched_windows.unwrap_or(own.unsched_windows);
    settings.max_incoming = max_incoming.unwrap_or(own.max_incoming);
    settings.fifo_fraction = fifo_fraction.unwrap_or(own.fifo_fraction);
    let packet = settings.scheduled_payload.unwrap_or(0);
    let packet = settings.packet_payload.max(packet);
    settings.fifo_increment = Some(fifo_increment.unwrap_or(packet));
    settings.boost_tail = boost_tail.unwrap_or(own.boost_tail);
    settings.unsched_by_remaining = unsched_by_remaining.unwrap_or(own.unsched_by_remaining);
    settings.main_buffer_bytes = main_buffer_bytes.unwrap_or(own.main_buffer_bytes);
    // Simulated applications drop what they get at once, and no memory is to be the limit.
    settings.max_message_bytes = MAX_BYTES as usize;
    settings.pool_bytes = usize::MAX;
    settings.send_bytes = MAX_BACKLOG_BYTES;
    settings.max_rpcs = 1 << 20;
    settings.max_rpcs_per_peer = 1 << 20;
    settings.unsched_cutoffs = match cutoffs.unwrap_or(Cutoffs::Known) {
        Cutoffs::Known => {
            let shares = workload.sizes.shares();
            let lengths = shares.map(|(bytes, share)| (bytes as usize, share));
            UnschedCutoffs::for_lengths(&settings, lengths)?
        }
        Cutoffs::Learned => UnschedCutoffs::Learned,
        Cutoffs::Default => UnschedCutoffs::Default,
    };
    settings.check()?;
    Ok(settings)
}

/// Bytes of messages that one host may have under way before a run is an overload: 3 s of a link
/// of 10 Gbit/s.
const MAX_BACKLOG_BYTES: usize = 4 << 30;
