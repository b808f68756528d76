//! Batch loading: what all resolvers of one level ask for is loaded at once. The first resolver that asks opens a
//! batch. When every other task on this thread and every resolver of this request has run, the batch closes and loads
//! its keys. It needs no timer and no task of its own: the resolvers that wait for it drive it.

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

type LoadFn<C, K, V> = fn(Arc<C>, Vec<K>) -> BoxFuture<'static, Result<HashMap<K, V>>>;
type LoadFuture<K, V> = BoxFuture<'static, Result<Arc<HashMap<K, V>>>>;
type SharedLoad<K, V> = Shared<LoadFuture<K, V>>;
/// The keys of an open batch; `None` once it is closed.
type OpenKeys<K> = Arc<Mutex<Option<HashSet<K>>>>;

/// Loads values by key, many keys at a time.
pub struct BatchLoader<K, V, C = Guard> {
    context: Arc<C>,
    load: LoadFn<C, K, V>,
    open: Mutex<Option<OpenBatch<K, V>>>,
    /// Values that `preload` has loaded for the next level.
    preloaded: Mutex<HashMap<K, Result<Option<V>>>>,
}

struct OpenBatch<K, V> {
    keys: OpenKeys<K>,
    /// Weak, so that only waiting resolvers keep the load alive: when all are dropped, what it holds of a transaction
    /// is dropped too.
    load: WeakShared<LoadFuture<K, V>>,
}

impl<K, V, C> BatchLoader<K, V, C>
where
    K: Hash + Eq + Copy + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    C: Send + Sync + 'static,
{
    /// Creates a loader that calls `load` with the keys of each batch.
    pub fn new(context: &Arc<C>, load: LoadFn<C, K, V>) -> Self {
        Self { context: Arc::clone(context), load, open: Mutex::new(None), preloaded: Mutex::default() }
    }

    /// Returns the value of `key`, or `None` when there is none.
    ///
    /// # Errors
    /// The error of the load, the same for all keys of a batch.
    pub async fn load(&self, key: K) -> Result<Option<V>> {
        let preloaded = self.preloaded.lock().get(&key).cloned();
        match preloaded {
            Some(result) => result,
            None => Ok(self.join(key).await?.get(&key).cloned()),
        }
    }

    /// Loads a value that the next level will ask for, in the same batch as the current level, and keeps it until then.
    /// It must not be used when a mutation can happen in between.
    pub async fn preload(&self, key: K) {
        let result = self.load(key).await;
        self.preloaded.lock().insert(key, result);
    }

    /// Adds `key` to the open batch, or opens one with it.
    fn join(&self, key: K) -> SharedLoad<K, V> {
        let mut open = self.open.lock();
        if let Some(batch) = open.as_ref()
            && let Some(load) = batch.load.upgrade()
            && let Some(keys) = batch.keys.lock().as_mut()
        {
            keys.insert(key);
            return load;
        }
        let keys: OpenKeys<K> = Arc::new(Mutex::new(Some(HashSet::from([key]))));
        let (context, load, batch_keys) = (Arc::clone(&self.context), self.load, Arc::clone(&keys));
        let load = async move {
            let mut previous_count = 1;
            loop {
                SchedulerTick::wait().await;
                // The tick can come in the middle of a long level. While keys are still being added, more may follow.
                let count = batch_keys.lock().as_ref().map_or(0, HashSet::len);
                if std::mem::replace(&mut previous_count, count) == count {
                    break;
                }
            }
            let keys = batch_keys.lock().take().unwrap_or_default();
            load(context, keys.into_iter().collect()).await.map(Arc::new)
        };
        let load = load.boxed().shared();
        // `downgrade` returns `None` only for a future that has completed, and this one has not been polled yet.
        *open = load.downgrade().map(|load| OpenBatch { keys, load });
        load
    }
}

/// One tick of Tokio's scheduler: everything that was ready to run has run. Every resolver that waits for a batch polls
/// it, so a second poll does not prove that others have run in between. Only Tokio's wake-up does, which comes after
/// all tasks that were ready.
#[derive(Default)]
struct SchedulerTick {
    passed: AtomicBool,
    waiter: AtomicWaker,
}

impl SchedulerTick {
    async fn wait() {
        let tick = Arc::new(Self::default());
        let waker = Waker::from(Arc::clone(&tick));
        let mut yielded = false;
        poll_fn(|context| {
            tick.waiter.register(context.waker());
            if tick.passed.load(Ordering::Acquire) {
                return Poll::Ready(());
            }
            if !std::mem::replace(&mut yielded, true) {
                // The first poll of `yield_now` only registers the waker with Tokio.
                let _ = pin!(tokio::task::yield_now()).poll(&mut Context::from_waker(&waker));
            }
            Poll::Pending
        })
        .await;
    }
}

impl Wake for SchedulerTick {
    fn wake(self: Arc<Self>) {
        self.passed.store(true, Ordering::Release);
        self.waiter.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_graphql::{EmptyMutation, EmptySubscription, Object, Schema};
    use std::sync::atomic::AtomicUsize;

    type Doubler = BatchLoader<usize, usize, AtomicUsize>;

    struct Item(usize);

    #[Object]
    impl Item {
        async fn a(&self) -> usize {
            self.0
        }

        async fn twice(&self, ctx: &async_graphql::Context<'_>) -> usize {
            ctx.data_unchecked::<Doubler>().load(self.0).await.unwrap().unwrap_or_default()
        }

        async fn items(&self, ctx: &async_graphql::Context<'_>, n: usize) -> Vec<Item> {
            let first = ctx.data_unchecked::<Doubler>().load(self.0 + 1_000).await.unwrap().unwrap_or_default();
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

    /// A loader that doubles its keys, and the number of its loads.
    fn doubler() -> (Arc<AtomicUsize>, Doubler) {
        let calls = Arc::new(AtomicUsize::new(0));
        let loader = BatchLoader::new(&calls, |calls, keys: Vec<usize>| {
            Box::pin(async move {
                calls.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                Ok(keys.into_iter().map(|key| (key, key * 2)).collect())
            })
        });
        (calls, loader)
    }

    async fn levels(n: usize) -> usize {
        let (calls, loader) = doubler();
        let schema = Schema::new(Root, EmptyMutation, EmptySubscription);
        let query = format!("{{ items(n: {n}) {{ a items(n: 3) {{ a twice b: a }} a2: a twice }} }}");
        let response = schema.execute(async_graphql::Request::new(query).data(loader)).await;
        assert!(response.is_ok(), "{:?}", response.errors);
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
    fn a_preloaded_value_is_not_loaded_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (calls, loader) = doubler();
        runtime.block_on(async {
            futures_util::join!(loader.preload(1), loader.preload(2));
            assert_eq!(calls.load(Ordering::SeqCst), 1);
            assert_eq!((loader.load(1).await, loader.load(2).await), (Ok(Some(2)), Ok(Some(4))));
            assert_eq!((loader.load(1).await, loader.load(3).await), (Ok(Some(2)), Ok(Some(6))));
            assert_eq!(calls.load(Ordering::SeqCst), 2, "nothing was loaded twice");
        });
    }

    #[test]
    fn a_dropped_request_drops_its_batch() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (calls, loader) = doubler();
        runtime.block_on(async {
            let mut dropped = Box::pin(loader.load(1));
            assert!(futures_util::poll!(&mut dropped).is_pending());
            drop(dropped);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            assert_eq!(calls.load(Ordering::SeqCst), 0, "a batch without a waiting resolver does not load");
            assert_eq!(loader.load(2).await, Ok(Some(4)), "the next batch does not wait for it");
            assert_eq!(loader.load(3).await, Ok(Some(6)));
        });
        assert_eq!(Arc::strong_count(&calls), 2, "no reference cycle keeps a finished batch alive");
    }
}
