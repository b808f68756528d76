//! Loads what all resolvers of a level ask for at once. The first one to ask opens the batch; when every other task on this thread and every
//! resolver of this request had its turn, the batch closes and runs. No timer, no task of its own: whoever waits drives it.

use crate::error::Result;
use crate::guard::Guard;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared, poll_fn};
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

type Run<C, K, V> = fn(Arc<C>, Vec<K>) -> BoxFuture<'static, Result<HashMap<K, V>>>;
type Found<K, V> = BoxFuture<'static, Result<Arc<HashMap<K, V>>>>;
type Answer<K, V> = Shared<Found<K, V>>;
/// `None` once the batch is closed.
type Keys<K> = Arc<Mutex<Option<HashSet<K>>>>;

/// Loads values by key, many at a time.
pub struct Batch<K, V, C = Guard> {
    context: Arc<C>,
    run: Run<C, K, V>,
    open: Mutex<Option<Open<K, V>>>,
    /// What was loaded for questions yet to come.
    ahead: Mutex<HashMap<K, Result<Option<V>>>>,
}

struct Open<K, V> {
    keys: Keys<K>,
    /// Those who wait hold it: when all have gone, what it holds of a transaction goes too.
    answer: WeakShared<Found<K, V>>,
}

impl<K, V, C> Batch<K, V, C>
where
    K: Hash + Eq + Copy + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    C: Send + Sync + 'static,
{
    /// `run` is called with each batch.
    pub fn new(context: &Arc<C>, run: Run<C, K, V>) -> Self {
        Self { context: Arc::clone(context), run, open: Mutex::new(None), ahead: Mutex::default() }
    }

    /// The value of `key`, if there is one.
    pub async fn load(&self, key: K) -> Result<Option<V>> {
        let known = self.ahead.lock().get(&key).cloned();
        match known {
            Some(known) => known,
            None => Ok(self.join(key).await?.get(&key).cloned()),
        }
    }

    /// Loads what the next level will ask for, together with this one, and keeps it: only for who changes nothing meanwhile.
    pub async fn load_ahead(&self, key: K) {
        let found = self.load(key).await;
        self.ahead.lock().insert(key, found);
    }

    fn join(&self, key: K) -> Answer<K, V> {
        let mut open = self.open.lock();
        if let Some(batch) = open.as_ref()
            && let Some(answer) = batch.answer.upgrade()
            && let Some(keys) = batch.keys.lock().as_mut()
        {
            keys.insert(key);
            return answer;
        }
        let keys: Keys<K> = Arc::new(Mutex::new(Some(HashSet::from([key]))));
        let (context, run, mine) = (Arc::clone(&self.context), self.run, Arc::clone(&keys));
        let answer = async move {
            let mut known = 1;
            loop {
                Turn::over().await;
                // Tokio's wake may come between two halves of a long level; as long as keys come, there are more to come.
                let asked = mine.lock().as_ref().map_or(0, HashSet::len);
                if std::mem::replace(&mut known, asked) == asked {
                    break;
                }
            }
            let keys = mine.lock().take().unwrap_or_default();
            run(context, keys.into_iter().collect()).await.map(Arc::new)
        };
        let answer = answer.boxed().shared();
        // It has not been polled, so there is something to come back to.
        *open = answer.downgrade().map(|answer| Open { keys, answer });
        answer
    }
}

/// The wait for everyone else. Everyone who waits for a batch polls it, so a second poll must not count as having waited:
/// only Tokio's wake does, which comes after all that was ready has run.
#[derive(Default)]
struct Turn {
    over: AtomicBool,
    task: AtomicWaker,
}

impl Turn {
    async fn over() {
        let turn = Arc::new(Self::default());
        let waker = Waker::from(Arc::clone(&turn));
        let mut asked = false;
        poll_fn(|context| {
            turn.task.register(context.waker());
            if turn.over.load(Ordering::Acquire) {
                return Poll::Ready(());
            }
            if !std::mem::replace(&mut asked, true) {
                // Its first poll only leaves the waker with Tokio.
                let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker));
            }
            Poll::Pending
        })
        .await;
    }
}

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        self.over.store(true, Ordering::Release);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_graphql::{EmptyMutation, EmptySubscription, Object, Schema};
    use std::sync::atomic::AtomicUsize;

    type Counter = Batch<usize, usize, AtomicUsize>;

    struct Item(usize);

    #[Object]
    impl Item {
        async fn a(&self) -> usize {
            self.0
        }

        async fn twice(&self, ctx: &async_graphql::Context<'_>) -> usize {
            ctx.data_unchecked::<Counter>().load(self.0).await.unwrap().unwrap_or_default()
        }

        async fn items(&self, ctx: &async_graphql::Context<'_>, n: usize) -> Vec<Item> {
            let first = ctx.data_unchecked::<Counter>().load(self.0 + 1_000).await.unwrap().unwrap_or_default();
            (first..first + n).map(Item).collect()
        }
    }

    struct Root;

    #[Object]
    impl Root {
        async fn items(&self, n: usize) -> Vec<Item> {
            (0..n).map(Item).collect()
        }
    }

    fn counter() -> (Arc<AtomicUsize>, Counter) {
        let calls = Arc::new(AtomicUsize::new(0));
        let batch = Batch::new(&calls, |calls, keys: Vec<usize>| {
            Box::pin(async move {
                calls.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                Ok(keys.into_iter().map(|key| (key, key * 2)).collect())
            })
        });
        (calls, batch)
    }

    async fn levels(n: usize) -> usize {
        let (calls, batch) = counter();
        let schema = Schema::new(Root, EmptyMutation, EmptySubscription);
        let query = format!("{{ items(n: {n}) {{ a items(n: 3) {{ a twice b: a }} a2: a twice }} }}");
        let answer = schema.execute(async_graphql::Request::new(query).data(batch)).await;
        assert!(answer.is_ok(), "{:?}", answer.errors);
        calls.load(Ordering::SeqCst)
    }

    #[test]
    fn a_level_is_one_load_on_every_runtime() {
        let single = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        let many = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        for n in [1, 10, 25, 35, 200] {
            assert_eq!(single.block_on(levels(n)), 2, "{n} parents, one thread");
            assert_eq!(local.block_on(&single, levels(n)), 2, "{n} parents, local set");
            assert_eq!(
                many.block_on(async move { tokio::spawn(levels(n)).await.unwrap() }),
                2,
                "{n} parents, two threads"
            );
        }
    }

    #[test]
    fn what_was_loaded_ahead_is_there() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (calls, batch) = counter();
        runtime.block_on(async {
            futures_util::join!(batch.load_ahead(1), batch.load_ahead(2));
            assert_eq!(calls.load(Ordering::SeqCst), 1);
            assert_eq!((batch.load(1).await, batch.load(2).await), (Ok(Some(2)), Ok(Some(4))));
            assert_eq!((batch.load(1).await, batch.load(3).await), (Ok(Some(2)), Ok(Some(6))));
            assert_eq!(calls.load(Ordering::SeqCst), 2, "nothing was loaded twice");
        });
    }

    #[test]
    fn the_batch_ends_with_its_request() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (calls, batch) = counter();
        runtime.block_on(async {
            let mut dropped = Box::pin(batch.load(1));
            assert!(futures_util::poll!(&mut dropped).is_pending());
            drop(dropped);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            assert_eq!(calls.load(Ordering::SeqCst), 0, "nobody waits, nothing runs");
            assert_eq!(batch.load(2).await, Ok(Some(4)), "and the next one is not stuck behind it");
            assert_eq!(batch.load(3).await, Ok(Some(6)));
        });
        assert_eq!(Arc::strong_count(&calls), 2, "no circle keeps a finished batch alive");
    }
}
