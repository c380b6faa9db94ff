//! How the endpoint asks the reactors and the registry.

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::Watched;
use crate::{
    clock,
    relay::{
        ReactorId,
        diagnostic::{Answer, Question, REPLY_TIME_MAX},
        home_reactor,
        registry::Registry,
        report::{LinkPage, LinkReport},
    },
    wire::NodeId,
};

/// How long a reactor or the registry may take to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// A question to the registry, which it answers on its own thread.
pub(crate) type RegistryQuestion = Box<dyn FnOnce(&mut Registry) + Send>;

/// Who was asked has not answered in time.
#[derive(Debug, thiserror::Error)]
#[error("{0} does not answer; see /livez")]
pub(super) struct Unanswered(pub(super) Cow<'static, str>);

impl Watched {
    /// Asks a reactor. The question is on its way before the future is awaited; with the answer comes when it was given.
    pub(super) fn ask_reactor<T: TryFrom<Answer>>(
        &self,
        reactor: ReactorId,
        question: Question,
    ) -> impl Future<Output = Result<(T, Instant), Unanswered>> + use<T> {
        let (reply, answer) = oneshot::channel();
        let time_max = match question.node() {
            Some(_) => REPLY_TIME_MAX + ANSWER_TIME_MAX,
            None => ANSWER_TIME_MAX,
        };
        let reply = Box::new(move |answer| {
            // Who asked may be gone.
            let _ = reply.send((answer, Instant::now()));
        });
        self.engine.ask(reactor, rand::random(), question, reply);
        async move {
            let answered = clock::timeout(time_max, answer).await.and_then(Result::ok);
            let answered = answered.and_then(|(answer, at)| Some((T::try_from(answer).ok()?, at)));
            answered.ok_or_else(|| Unanswered(format!("reactor {}", reactor.0).into()))
        }
    }

    /// Has another node asked, by the reactor that is its home.
    pub(super) fn ask_node<T: TryFrom<Answer>>(
        &self,
        node: &NodeId,
        question: Question,
    ) -> impl Future<Output = Result<(T, Instant), Unanswered>> + use<T> {
        self.ask_reactor(home_reactor(node, self.shared.reactors), question)
    }

    /// Asks all reactors one after the other.
    pub(super) async fn ask_reactors<T: TryFrom<Answer>>(
        &self,
        question: &Question,
    ) -> Result<Vec<(T, Instant)>, Unanswered> {
        let mut answers = Vec::new();
        for reactor in self.reactors() {
            answers.push(self.ask_reactor(reactor, question.clone()).await?);
        }
        Ok(answers)
    }

    /// The links of all reactors, which tell them page by page.
    pub(super) async fn links(&self) -> Result<Vec<LinkReport>, Unanswered> {
        let mut links = Vec::new();
        for reactor in self.reactors() {
            let mut next = Some(0);
            while let Some(from) = next {
                let (page, _) = self.ask_reactor::<LinkPage>(reactor, Question::Links { from }).await?;
                links.extend(page.links);
                next = page.next;
            }
        }
        Ok(links)
    }

    /// The links to nodes of each reactor that answers.
    pub(super) async fn node_links(&self) -> Vec<(ReactorId, Vec<LinkReport>)> {
        let ask = |reactor| (reactor, self.ask_reactor::<LinkPage>(reactor, Question::NodeLinks));
        // All are asked before the first is waited for: those that hang cost their time together.
        let asked: Vec<_> = self.reactors().map(ask).collect();
        let mut answers = Vec::with_capacity(asked.len());
        for (reactor, answer) in asked {
            if let Ok((page, _)) = answer.await {
                answers.push((reactor, page.links));
            }
        }
        answers
    }

    fn reactors(&self) -> impl Iterator<Item = ReactorId> + use<> {
        (0..self.shared.reactors).map(ReactorId)
    }

    /// Asks the registry.
    pub(super) async fn ask_registry<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&mut Registry) -> T + Send + 'static,
    ) -> Result<T, Unanswered> {
        let (reply, answer) = oneshot::channel();
        let question = Box::new(move |registry: &mut Registry| {
            // Who asked may be gone.
            let _ = reply.send(ask(registry));
        });
        let is_asked = self.registry.try_send(question).is_ok();
        let answer = if is_asked { clock::timeout(ANSWER_TIME_MAX, answer).await } else { None };
        answer.and_then(Result::ok).ok_or_else(|| Unanswered("the registry".into()))
    }
}
