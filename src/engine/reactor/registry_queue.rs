//! What a reactor tells the registry. Changes of topics are summed up while that is behind, so that none is lost and what waits
//! is bounded by the topics that there are.

use std::sync::Arc;

use ahash::AHashMap;
use crossbeam::channel::Sender;

use crate::{
    engine::bounds::REGISTRY_QUEUE_MAX,
    relay::{ReactorId, RegistryInput, SubscriberId, counters::Counters},
    wire::Topic,
};

/// The way of one reactor to the registry.
pub(super) struct RegistryQueue {
    registry: Sender<RegistryInput>,
    reactor: ReactorId,
    counters: Arc<Counters>,
    /// Changes of topics that wait because the registry is behind, each topic's summed up.
    put_off: AHashMap<Topic, i32>,
    /// The same of subscribers of private topics.
    put_off_subscribers: AHashMap<SubscriberId, (Topic, bool)>,
}

impl RegistryQueue {
    pub(super) fn new(registry: Sender<RegistryInput>, reactor: ReactorId, counters: Arc<Counters>) -> Self {
        Self { registry, reactor, counters, put_off: AHashMap::new(), put_off_subscribers: AHashMap::new() }
    }

    fn is_registry_behind(&self) -> bool {
        self.registry.len() >= REGISTRY_QUEUE_MAX
    }

    /// Tells the registry what was put off, once it has room.
    pub(super) fn flush(&mut self) {
        if !self.put_off_subscribers.is_empty() && !self.is_registry_behind() {
            let changes = self
                .put_off_subscribers
                .drain()
                .map(|(subscriber, (topic, subscribes))| (topic, subscriber, subscribes))
                .collect();
            // The registry outlives the reactors.
            let _ = self.registry.send(RegistryInput::Subscribers { changes });
        }
        if !self.put_off.is_empty() && !self.is_registry_behind() {
            let changes = self.put_off.drain().filter(|&(_, difference)| difference != 0).collect();
            // The registry outlives the reactors.
            let _ = self.registry.send(RegistryInput::Topics { reactor: self.reactor, changes });
        }
    }

    /// Tells it something; whether that is taken.
    pub(super) fn send(&mut self, input: RegistryInput) -> bool {
        match input {
            RegistryInput::State { .. } | RegistryInput::Rpc { .. } if self.is_registry_behind() => false,
            RegistryInput::Topics { changes, .. }
                if !self.put_off.is_empty() || self.is_registry_behind() =>
            {
                self.counters.registry_changes_put_off.add(changes.len() as u64);
                for (topic, difference) in changes {
                    *self.put_off.entry(topic).or_default() += difference;
                }
                true
            }
            RegistryInput::Subscribers { changes }
                if !self.put_off_subscribers.is_empty() || self.is_registry_behind() =>
            {
                self.counters.registry_changes_put_off.add(changes.len() as u64);
                for (topic, subscriber, subscribes) in changes {
                    // Each takes its topic once and drops it once; the registry need not know of both.
                    if self.put_off_subscribers.remove(&subscriber).is_none() {
                        self.put_off_subscribers.insert(subscriber, (topic, subscribes));
                    }
                }
                true
            }
            // The registry outlives the reactors.
            input => self.registry.send(input).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam::channel::{Receiver, unbounded};

    use super::*;

    fn queue() -> (RegistryQueue, Receiver<RegistryInput>) {
        let (registry, inputs) = unbounded();
        (RegistryQueue::new(registry, ReactorId(0), Arc::default()), inputs)
    }

    #[test]
    fn changes_of_topics_are_summed_up_while_the_registry_is_behind_and_none_is_lost() {
        let (mut queue, inputs) = queue();
        let topic = |name: &str| Topic::new(name).unwrap();
        let change = |name: &str, difference| RegistryInput::Topics {
            reactor: ReactorId(0),
            changes: vec![(topic(name), difference)],
        };
        for _ in 0..REGISTRY_QUEUE_MAX + 100 {
            assert!(queue.send(change("many", 1)));
        }
        assert!(queue.send(change("brief", 1)));
        assert!(queue.send(change("brief", -1)));
        assert_eq!(inputs.len(), REGISTRY_QUEUE_MAX);
        queue.flush();
        assert_eq!(inputs.try_iter().count(), REGISTRY_QUEUE_MAX);
        queue.flush();
        let Ok(RegistryInput::Topics { changes, .. }) = inputs.try_recv() else { panic!("nothing told") };
        assert_eq!(changes, [(topic("many"), 100)]);
        assert!(queue.send(change("after", 1)));
        assert_eq!(inputs.len(), 1);
        assert_eq!(queue.counters.registry_changes_put_off.get(), 102);
    }

    #[test]
    fn a_subscriber_that_comes_and_goes_while_the_registry_is_behind_is_not_told_of() {
        let (mut queue, inputs) = queue();
        let topic = Topic::new("#!$TopicNeedVerify_t").unwrap();
        let change = |number, subscribes| RegistryInput::Subscribers {
            changes: vec![(topic.clone(), SubscriberId(number), subscribes)],
        };
        for number in 0..REGISTRY_QUEUE_MAX as u64 {
            assert!(queue.send(change(number, true)));
        }
        for (number, subscribes) in [(1, false), (1 << 20, true), (1 << 20, false)] {
            assert!(queue.send(change(number, subscribes)));
        }
        assert_eq!(inputs.try_iter().count(), REGISTRY_QUEUE_MAX);
        queue.flush();
        let Ok(RegistryInput::Subscribers { changes }) = inputs.try_recv() else { panic!("nothing told") };
        assert_eq!(changes, [(topic.clone(), SubscriberId(1), false)]);
    }
}
