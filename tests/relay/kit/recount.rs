//! What is counted by hand, counted anew: by each network at its end.

use std::{sync::atomic::Ordering::Relaxed, thread};

use amop::internal::relay::{RegistryInput, RegistryOutput};

use super::{Event, Network, NodeIndex};

impl Network {
    /// What a node has counted wrongly, in words.
    pub fn miscount(&self) -> Option<String> {
        let nodes = self.nodes.iter().enumerate();
        let miscount = |(index, node): (NodeIndex, &super::VirtualNode)| {
            let miscount = node.miscount().or_else(|| self.miscount_in_transit(index))?;
            Some(format!("node{index}: {miscount}"))
        };
        nodes.filter(|(_, node)| node.running).find_map(miscount)
    }

    /// Bytes on their way between the shards of a node and its registry, which both count.
    fn miscount_in_transit(&self, index: NodeIndex) -> Option<String> {
        let node = &self.nodes[index];
        let (mut inputs, mut answers) = (0, 0);
        for event in self.pending.values().chain(&node.deferred) {
            match event {
                Event::Registry {
                    node: of,
                    incarnation,
                    input:
                        RegistryInput::State { payload: bytes, .. } | RegistryInput::Rpc { body: bytes, .. },
                } if (*of, *incarnation) == (index, node.incarnation) => inputs += bytes.len(),
                Event::FromRegistry {
                    node: of,
                    incarnation,
                    output: RegistryOutput::RpcAnswer { body, .. },
                    ..
                } if (*of, *incarnation) == (index, node.incarnation) => answers += body.len(),
                _ => {}
            }
        }
        let shared = &node.shared;
        let counted = (shared.registry_input_bytes.load(Relaxed), shared.rpc_answer_bytes.load(Relaxed));
        let told = || {
            format!(
                "{counted:?} bytes to and from the registry are counted, and there are {:?}",
                (inputs, answers)
            )
        };
        (counted != (inputs, answers)).then(told)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What fails already says why.
        if self.recounts_at_end && !thread::panicking() {
            assert_eq!(self.miscount(), None);
        }
    }
}
