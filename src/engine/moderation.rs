//! How a reactor waits when a turn has left it nothing to do, as network cards moderate their interrupts: it sleeps if nothing
//! is to be expected, looks for the next message if the last ones came soon, and gathers several if they come fast. Pure.
//!
//! # Invariants
//! - A wait that gathers is no longer than its bound. None begins before messages came fast for whole epochs.
//! - It is no longer than half of what answers take without it, but where processor time goes before the time of messages.
//! - To look in vain costs a bounded share of a processor. Who loses its processor while it looks does not look for a while.

use std::time::{Duration, Instant};

/// What a reactor trades: processor time, or the time that a message takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Latency {
    /// Looks for messages always, and gathers none: for processors that are the node's own.
    Low,
    /// Looks for the next message while that pays off, and gathers while messages come fast.
    #[default]
    Balanced,
    /// Never looks, and gathers for longer.
    Power,
}

/// How reactors wait.
#[derive(Clone, Copy, Debug, Default)]
pub struct WaitSettings {
    /// What is chosen where nothing else is said.
    pub latency: Latency,
    /// How long a reactor looks for work before it sleeps, each time.
    pub spin: Option<Duration>,
    /// How long at most it gathers.
    pub gather: Option<Duration>,
}

/// How long a reactor looks for the next message where it expects one.
const LOOK: Duration = Duration::from_micros(50);
/// The same with [`Latency::Low`].
const LOOK_LOW: Duration = Duration::from_millis(1);
/// How long at most it gathers.
const GATHER: Duration = Duration::from_micros(50);
/// The same with [`Latency::Power`].
const GATHER_POWER: Duration = Duration::from_micros(200);
/// A wait that gathers ends when so many links have something. A link counts once, however much came on it.
const GATHERED_LINKS_MAX: usize = 32;
/// To gather is to wait at most this part of what answers take without it: whose answers take long has many messages under way, and
/// they wait for each other anyway.
const GATHER_PER_ANSWER: f64 = 0.5;
/// Steps from no gathering to the longest.
const STEPS: u32 = 4;
/// Frames are counted for so long before a step is judged …
const EPOCH: Duration = Duration::from_millis(1);
/// … and until so many have come.
const EPOCH_FRAMES: u32 = 64;
/// An epoch that is not over after so long had too few.
const EPOCH_MAX: Duration = Duration::from_millis(10);
/// Times after which it is seen that frames come one by one, though they are gathered.
const GATHERS_MIN: u32 = 16;
/// What comes within this of the end of a turn came fast.
const FAST: Duration = Duration::from_micros(10);
/// Epochs until another step is tried: at first …
const PAUSE_MIN: u32 = 2;
/// … and up to this, as it turns out to be in vain.
const PAUSE_MAX: u32 = 256;
/// A score goes up by two for what came while it could be looked for, and down by one for what did not …
const SCORE_MAX: u8 = 8;
/// … and the next message is looked for while it is at least this.
const SCORE_LOOKED_FOR: u8 = 3;
/// A message that came during a sleep of up to so many looks counts as one that could have been looked for: answered sooner, its
/// sender would have slept less itself.
const SLEPT_LOOKS: u32 = 3;
/// The share of a processor that looks in vain may take: one part of so many.
const VAIN_SHARE: u32 = 50;
/// What of that share may be saved up.
const VAIN_CREDIT_MAX: Duration = Duration::from_millis(1);
/// Whoever looks whether or not it pays off offers its processor to others after so many looks.
const LOOKS_PER_OFFER: u32 = 64;
/// A look that took so long did not have its processor …
const LOST_AFTER: Duration = Duration::from_micros(200);
/// … which is short then, for this long.
const LOST_FOR: Duration = Duration::from_millis(50);

/// How to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// For so many links to have something, and not for longer than this.
    Gather { links: usize, at_most: Duration },
    /// Not at all: whether there is anything, again and again.
    Look,
    /// For the first one.
    Sleep,
}

pub(super) struct Moderation {
    /// Since when there is nothing to do, and how it was waited last.
    idle: Option<(Instant, Wait)>,
    looking: Looking,
    gathering: Gathering,
}

impl Moderation {
    pub(super) fn new(now: Instant, settings: WaitSettings) -> Self {
        let (look, gather) = match settings.latency {
            Latency::Low => (LOOK_LOW, Duration::ZERO),
            Latency::Balanced => (LOOK, GATHER),
            Latency::Power => (Duration::ZERO, GATHER_POWER),
        };
        let looks_always = settings.spin.is_some() || settings.latency == Latency::Low;
        Self {
            idle: None,
            looking: Looking::new(now, settings.spin.unwrap_or(look), looks_always),
            gathering: Gathering::new(
                now,
                settings.gather.unwrap_or(gather),
                settings.latency == Latency::Power,
            ),
        }
    }

    /// There is nothing to do: how to wait. So many answers are to come, of those who were asked something.
    pub(super) fn wait(&mut self, now: Instant, awaited: usize) -> Wait {
        let (since, wait) = match self.idle {
            None => {
                self.gathering.epoch.begin_wait(awaited);
                let looks = self.looking.begin(now, awaited > 0);
                let otherwise = if looks { Wait::Look } else { Wait::Sleep };
                (now, self.gathering.wait().unwrap_or(otherwise))
            }
            Some((since, Wait::Look)) if self.looking.goes_on(now, since) => (since, Wait::Look),
            Some((since, _)) => (since, Wait::Sleep),
        };
        self.idle = Some((since, wait));
        wait
    }

    /// Whether the processor is to be offered to others before the next look. Who looks only while that pays off leaves it
    /// soon, and sees it when it was taken away.
    pub(super) fn offers_processor(&self) -> bool {
        self.looking.always && self.looking.looks.is_multiple_of(LOOKS_PER_OFFER)
    }

    /// So many frames came, after it was waited or at once.
    pub(super) fn found(&mut self, now: Instant, frames: usize) {
        let is_gathered = matches!(self.idle, Some((_, Wait::Gather { .. })));
        if frames == 0 && !is_gathered {
            return;
        }
        let idle = self.idle.take().map(|(since, wait)| (now.saturating_duration_since(since), wait));
        if let Some((idle, wait)) = idle
            && !is_gathered
        {
            self.looking.found(idle, wait);
        }
        let waited = idle.map_or(Duration::ZERO, |(idle, _)| idle);
        self.gathering.found(now, frames, is_gathered, waited);
    }
}

/// Whether it pays off to look for the next message.
struct Looking {
    /// How long it looks at most.
    at_most: Duration,
    /// Whether it need not pay off.
    always: bool,
    looked: Instant,
    /// Which look this is.
    looks: u32,
    /// How often what came could have been looked for: where no answer is expected, and where one is.
    scores: [u8; 2],
    expects: usize,
    /// What may still be looked in vain, and when that was reckoned.
    credit: Duration,
    credited: Instant,
    /// Until when its processor is taken to be short.
    short_until: Instant,
}

impl Looking {
    fn new(now: Instant, at_most: Duration, always: bool) -> Self {
        Self {
            at_most,
            always,
            looked: now,
            looks: 1,
            scores: [0; 2],
            expects: 0,
            credit: VAIN_CREDIT_MAX,
            credited: now,
            short_until: now,
        }
    }

    /// Whether to look, now that there is nothing to do.
    fn begin(&mut self, now: Instant, expects: bool) -> bool {
        (self.expects, self.looked) = (usize::from(expects), now);
        let passed = now.saturating_duration_since(std::mem::replace(&mut self.credited, now));
        self.credit = (self.credit + passed / VAIN_SHARE).min(VAIN_CREDIT_MAX);
        let pays_off = self.scores[self.expects] >= SCORE_LOOKED_FOR
            && self.credit >= self.at_most
            && now >= self.short_until;
        !self.at_most.is_zero() && (self.always || pays_off)
    }

    /// Whether to look on, where there has been nothing since then.
    fn goes_on(&mut self, now: Instant, since: Instant) -> bool {
        let took = now.saturating_duration_since(std::mem::replace(&mut self.looked, now));
        self.looks = self.looks.wrapping_add(1);
        if took >= LOST_AFTER {
            self.short_until = now + LOST_FOR;
        }
        let is_short = !self.always && now < self.short_until;
        if now.saturating_duration_since(since) < self.at_most && !is_short {
            return true;
        }
        self.credit = self.credit.saturating_sub(self.at_most);
        false
    }

    /// Something came after so long.
    fn found(&mut self, idle: Duration, wait: Wait) {
        let reach = if wait == Wait::Sleep { self.at_most * SLEPT_LOOKS } else { self.at_most };
        let score = &mut self.scores[self.expects];
        *score = if idle <= reach { (*score + 2).min(SCORE_MAX) } else { score.saturating_sub(1) };
    }
}

/// For how long it pays off to gather. Nobody knows how many messages senders have under way: that a longer wait slows
/// them down is seen by fewer that come, and then it was a step too far.
struct Gathering {
    at_most: Duration,
    /// Whether it may take longer than answers do.
    saves_power: bool,
    /// Of [`STEPS`].
    step: u32,
    epoch: Epoch,
    /// The step that is tried came from this one, where so many frames came in a second.
    trial: Option<(u32, f64)>,
    /// Whether the next step that is tried is a longer one.
    is_up_next: bool,
    /// Epochs until the next is tried, and how many that were at the last trial.
    left: u32,
    pause: u32,
}

struct Epoch {
    began: Instant,
    frames: u32,
    turns: u32,
    fast_turns: u32,
    /// How often frames were gathered, and how many.
    gathers: u32,
    gathered: u32,
    /// How long that was waited in all.
    gathering: Duration,
    /// How often there was nothing to do, and how many answers were to come then, in all.
    waits: u32,
    awaited: u64,
}

impl Epoch {
    fn begin(now: Instant) -> Self {
        Self {
            began: now,
            frames: 0,
            turns: 0,
            fast_turns: 0,
            gathers: 0,
            gathered: 0,
            gathering: Duration::ZERO,
            waits: 0,
            awaited: 0,
        }
    }

    fn begin_wait(&mut self, awaited: usize) {
        self.waits += 1;
        self.awaited += awaited as u64;
    }

    /// What an answer takes without gathering, in seconds, if any were to come: as many are under way as come in that time. `rate` is
    /// that of frames, and each is a request or an answer; what is asked of a session here is awaited by it and for its request.
    fn answer_seconds(&self, rate: f64) -> Option<f64> {
        if self.awaited == 0 || rate <= 0.0 {
            return None;
        }
        let took = self.awaited as f64 / f64::from(self.waits) / rate;
        let gathering = self.gathering.as_secs_f64() / f64::from(self.gathers.max(1));
        Some((took - gathering).max(0.0))
    }
}

impl Gathering {
    fn new(now: Instant, at_most: Duration, saves_power: bool) -> Self {
        Self {
            at_most,
            saves_power,
            step: 0,
            epoch: Epoch::begin(now),
            trial: None,
            is_up_next: true,
            left: PAUSE_MIN,
            pause: PAUSE_MIN,
        }
    }

    fn wait(&self) -> Option<Wait> {
        let at_most = self.at_most * self.step / STEPS;
        (!at_most.is_zero()).then_some(Wait::Gather { links: GATHERED_LINKS_MAX, at_most })
    }

    fn found(&mut self, now: Instant, frames: usize, is_gathered: bool, waited: Duration) {
        let epoch = &mut self.epoch;
        epoch.frames += frames as u32;
        epoch.turns += 1;
        epoch.fast_turns += u32::from(is_gathered || waited < FAST);
        if is_gathered {
            epoch.gathers += 1;
            epoch.gathering += waited;
            epoch.gathered += frames as u32;
        }
        let passed = now.saturating_duration_since(epoch.began);
        let is_over = passed >= EPOCH && epoch.frames >= EPOCH_FRAMES;
        // Who waits for one message at a time is not to wait for more.
        let is_alone = epoch.gathers >= GATHERS_MIN && 4 * epoch.gathered < 5 * epoch.gathers;
        let is_slack = passed >= EPOCH_MAX || is_alone;
        if is_over || is_slack {
            let rate = f64::from(epoch.frames) / passed.as_secs_f64();
            let is_busy = !is_slack && 2 * epoch.fast_turns > epoch.turns;
            let step_max = self.step_max(rate);
            self.epoch = Epoch::begin(now);
            self.judge(rate, is_busy, is_slack, step_max);
        }
    }

    /// The longest step that what answers take allows.
    fn step_max(&self, rate: f64) -> u32 {
        match self.epoch.answer_seconds(rate) {
            Some(seconds) if !self.saves_power && !self.at_most.is_zero() => {
                let steps = GATHER_PER_ANSWER * seconds / self.at_most.as_secs_f64() * f64::from(STEPS);
                (steps as u32).min(STEPS)
            }
            _ => STEPS,
        }
    }

    fn judge(&mut self, rate: f64, is_busy: bool, is_slack: bool, step_max: u32) {
        if self.step > step_max {
            self.trial = None;
            self.step = step_max;
            return;
        }
        if is_slack {
            let was_trial = self.trial.take().is_some();
            self.step = 0;
            self.is_up_next = true;
            self.pause = if was_trial { (2 * self.pause).min(PAUSE_MAX) } else { PAUSE_MIN };
            self.left = self.pause;
            return;
        }
        if let Some((from, before)) = self.trial.take() {
            let is_longer = self.step > from;
            let pays_off = if is_longer { rate >= 0.97 * before } else { rate > 1.05 * before };
            self.pause = if pays_off { PAUSE_MIN } else { (2 * self.pause).min(PAUSE_MAX) };
            if !pays_off {
                self.step = from;
            }
            self.is_up_next = is_longer == pays_off;
            self.left = self.pause;
            return;
        }
        self.left = self.left.saturating_sub(1);
        if self.left > 0 || !is_busy {
            return;
        }
        let next = match self.is_up_next {
            _ if self.step == 0 => 1,
            true if self.step < step_max => self.step + 1,
            _ => self.step - 1,
        };
        if next > step_max {
            return;
        }
        self.trial = Some((self.step, rate));
        self.step = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MICRO: Duration = Duration::from_micros(1);

    /// A reactor that is told of what comes, and how often it waited in which way.
    struct Reactor {
        now: Instant,
        moderation: Moderation,
        slept: u32,
        looked: Duration,
        gathered: u32,
    }

    impl Reactor {
        fn new(settings: WaitSettings) -> Self {
            let now = Instant::now();
            let moderation = Moderation::new(now, settings);
            Self { now, moderation, slept: 0, looked: Duration::ZERO, gathered: 0 }
        }

        /// Something comes after so long, and is handled.
        fn comes_after(&mut self, idle: Duration, awaited: usize) {
            let end = self.now + idle;
            loop {
                match self.moderation.wait(self.now, awaited) {
                    Wait::Look if self.now < end => {
                        self.now += MICRO;
                        self.looked += MICRO;
                    }
                    Wait::Look => break,
                    Wait::Sleep => {
                        self.slept += 1;
                        self.now = self.now.max(end);
                        break;
                    }
                    Wait::Gather { at_most, .. } => {
                        self.gathered += 1;
                        self.now += at_most;
                        break;
                    }
                }
            }
            self.moderation.found(self.now, 1);
            self.now += 5 * MICRO;
        }
    }

    /// Some senders on the same node, each with so many messages under way, that take so long for one; so many came in the
    /// last tenth of a second, and so many turns took them.
    fn closed_loop(settings: WaitSettings, window: usize, sender_takes: Duration) -> (u32, u32) {
        let mut reactor = Reactor::new(settings);
        let begin = reactor.now;
        // When each message is with the reactor again.
        let mut under_way: Vec<Instant> = vec![begin; window];
        let mut sender_free = begin;
        let (mut frames, mut turns) = (0, 0);
        while reactor.now < begin + Duration::from_secs(1) {
            let first = *under_way.iter().min().unwrap();
            let is_here = |now: Instant| move |at: &&mut Instant| **at <= now;
            // Whether anything is there is not seen before it waits.
            match reactor.moderation.wait(reactor.now, window) {
                Wait::Gather { at_most, .. } => reactor.now += at_most,
                Wait::Look if first > reactor.now => reactor.now += MICRO,
                Wait::Sleep if first > reactor.now => reactor.now = first + 5 * MICRO,
                Wait::Look | Wait::Sleep => {}
            }
            let now = reactor.now;
            let came = under_way.iter_mut().filter(is_here(now)).count();
            reactor.moderation.found(now, came);
            if came == 0 {
                continue;
            }
            // A turn costs something, and each frame of it.
            reactor.now += 5 * MICRO + 2 * MICRO * came as u32;
            for at in under_way.iter_mut().filter(is_here(now)) {
                sender_free = sender_free.max(reactor.now) + sender_takes;
                *at = sender_free;
            }
            if now > begin + Duration::from_millis(900) {
                frames += came as u32;
                turns += 1;
            }
        }
        (frames, turns)
    }

    #[test]
    fn a_reactor_that_is_rarely_told_anything_sleeps() {
        let mut reactor = Reactor::new(WaitSettings::default());
        for _ in 0..1_000 {
            reactor.comes_after(Duration::from_millis(10), 0);
        }
        assert_eq!((reactor.slept, reactor.looked), (1_000, Duration::ZERO));
    }

    #[test]
    fn an_answer_that_comes_soon_is_looked_for_though_the_next_request_comes_late() {
        let mut reactor = Reactor::new(WaitSettings::default());
        for _ in 0..1_000 {
            reactor.comes_after(Duration::from_millis(10), 0);
            reactor.comes_after(30 * MICRO, 1);
        }
        assert!((1_000..1_010).contains(&reactor.slept), "slept {} times", reactor.slept);
        assert!(reactor.looked < 1_000 * 35 * MICRO);
    }

    #[test]
    fn looks_in_vain_take_no_more_than_their_share() {
        let mut reactor = Reactor::new(WaitSettings::default());
        let begin = reactor.now;
        // Just often enough to go on hoping.
        for _ in 0..10_000 {
            reactor.comes_after(20 * MICRO, 1);
            reactor.comes_after(200 * MICRO, 1);
        }
        let in_vain = reactor.looked.saturating_sub(10_000 * 21 * MICRO);
        let share = in_vain.as_secs_f64() / (reactor.now - begin).as_secs_f64();
        assert!(share < 1.1 / f64::from(VAIN_SHARE), "{share}");
    }

    #[test]
    fn who_loses_its_processor_while_it_looks_does_not_look_for_a_while() {
        let mut reactor = Reactor::new(WaitSettings::default());
        for _ in 0..10 {
            reactor.comes_after(20 * MICRO, 1);
        }
        assert_eq!(reactor.moderation.wait(reactor.now, 1), Wait::Look);
        reactor.now += LOST_AFTER;
        assert_eq!(reactor.moderation.wait(reactor.now, 1), Wait::Sleep);
        reactor.moderation.found(reactor.now, 1);
        let (until, slept) = (reactor.now + LOST_FOR, reactor.slept);
        while reactor.now < until {
            assert_eq!(reactor.moderation.wait(reactor.now, 1), Wait::Sleep);
            reactor.now += 20 * MICRO;
            reactor.moderation.found(reactor.now, 1);
        }
        reactor.comes_after(20 * MICRO, 1);
        assert_eq!(reactor.slept, slept);
    }

    #[test]
    fn one_message_at_a_time_never_waits_for_more_and_two_hardly_ever() {
        let none = WaitSettings { gather: Some(Duration::ZERO), ..WaitSettings::default() };
        for window in [1, 2] {
            for sender_takes in [1, 5, 20].map(|micros| micros * MICRO) {
                let (frames, _) = closed_loop(WaitSettings::default(), window, sender_takes);
                let (best, _) = closed_loop(none, window, sender_takes);
                assert!(
                    f64::from(frames) > 0.95 * f64::from(best),
                    "window {window}, sender {sender_takes:?}: {frames} instead of {best}"
                );
            }
        }
    }

    #[test]
    fn many_messages_are_gathered_where_that_slows_nobody_down() {
        let none = WaitSettings { gather: Some(Duration::ZERO), ..WaitSettings::default() };
        let (frames, turns) = closed_loop(WaitSettings::default(), 128, 8 * MICRO);
        let (best, turns_before) = closed_loop(none, 128, 8 * MICRO);
        assert!(f64::from(frames) > 0.95 * f64::from(best), "{frames} instead of {best}");
        assert!(3 * turns < turns_before, "{turns} turns instead of {turns_before}");
    }

    /// Requests come every 16 µs, whatever became of those before, and whoever is asked answers after so long. Gives by how much a
    /// frame is handled later than it came, on average in the last tenth of a second.
    fn open_loop(settings: WaitSettings, answer: Duration) -> Duration {
        let mut reactor = Reactor::new(settings);
        let begin = reactor.now;
        let (mut next_request, mut answers) = (begin, std::collections::VecDeque::new());
        let (mut late, mut frames) = (Duration::ZERO, 0);
        while reactor.now < begin + Duration::from_secs(1) {
            let first = answers.front().map_or(next_request, |&at| next_request.min(at));
            // Whoever is asked is awaited, and so is the answer to who asked.
            match reactor.moderation.wait(reactor.now, 2 * answers.len()) {
                Wait::Gather { at_most, .. } => reactor.now += at_most,
                Wait::Look if first > reactor.now => reactor.now += MICRO,
                Wait::Sleep if first > reactor.now => reactor.now = first + 5 * MICRO,
                Wait::Look | Wait::Sleep => {}
            }
            let (now, mut came, mut asked) = (reactor.now, Vec::new(), 0);
            while next_request <= now {
                came.push(next_request);
                next_request += 16 * MICRO;
                asked += 1;
            }
            while answers.front().is_some_and(|&at| at <= now) {
                came.extend(answers.pop_front());
            }
            reactor.moderation.found(now, came.len());
            if came.is_empty() {
                continue;
            }
            reactor.now += 3 * MICRO + 2 * MICRO * came.len() as u32;
            answers.extend((0..asked).map(|_| reactor.now + answer));
            if now > begin + Duration::from_millis(900) {
                late += came.iter().map(|&at| now - at).sum::<Duration>();
                frames += came.len() as u32;
            }
        }
        late / frames
    }

    #[test]
    fn what_is_answered_sooner_than_messages_are_gathered_is_not_slowed_down_unless_power_is_to_be_saved() {
        let none = WaitSettings { gather: Some(Duration::ZERO), ..WaitSettings::default() };
        for answer in [4, 8, 16].map(|micros| micros * MICRO) {
            let (late, least) = (open_loop(WaitSettings::default(), answer), open_loop(none, answer));
            assert!(late <= least + MICRO, "answers within {answer:?}: {late:?} instead of {least:?}");
        }
        let power = WaitSettings { latency: Latency::Power, ..WaitSettings::default() };
        let late = open_loop(power, MICRO);
        assert!(late > 50 * MICRO, "{late:?}");
    }

    #[test]
    fn what_is_set_decides() {
        let with = |latency| WaitSettings { latency, ..WaitSettings::default() };
        // Always looks, whatever came before.
        let spin = WaitSettings { spin: Some(20 * MICRO), ..WaitSettings::default() };
        for settings in [with(Latency::Low), spin] {
            let mut moderation = Moderation::new(Instant::now(), settings);
            assert_eq!(moderation.wait(Instant::now(), 0), Wait::Look);
        }
        // It offers its processor to others now and then.
        let mut reactor = Reactor::new(spin);
        let mut offers = || {
            assert_eq!(reactor.moderation.wait(reactor.now, 0), Wait::Look);
            reactor.moderation.offers_processor()
        };
        assert!((1..LOOKS_PER_OFFER).all(|_| !offers()) && offers() && !offers());
        // Never looks.
        let mut reactor = Reactor::new(with(Latency::Power));
        (0..100).for_each(|_| reactor.comes_after(20 * MICRO, 1));
        assert_eq!((reactor.looked, reactor.slept), (Duration::ZERO, 100));
        // Never gathers.
        let (_, turns) = closed_loop(with(Latency::Low), 128, 8 * MICRO);
        let none = WaitSettings { gather: Some(Duration::ZERO), ..with(Latency::Low) };
        assert_eq!(turns, closed_loop(none, 128, 8 * MICRO).1);
    }
}
