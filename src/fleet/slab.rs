//! Dense storage with small indices that are used again. An index is good until its entry is
//! removed; whoever holds one outside must be told (timers are cleared, sets are updated).

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TaskIx(pub(super) u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct WorkerIx(pub(super) u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct DemandIx(pub(super) u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SessionIx(pub(super) u32);

/// An index type.
pub(super) trait Index: Copy {
    fn new(at: usize) -> Self;
    fn at(self) -> usize;
}

macro_rules! indices {
    ($($name:ident),*) => {$(
        impl Index for $name {
            fn new(at: usize) -> Self {
                Self(u32::try_from(at).expect("admission bounds every table far below 2^32"))
            }
            fn at(self) -> usize {
                self.0 as usize
            }
        }
    )*};
}

indices!(TaskIx, WorkerIx, DemandIx, SessionIx);

#[derive(Debug)]
pub(super) struct Slab<I, T> {
    entries: Vec<Option<T>>,
    free: Vec<u32>,
    index: std::marker::PhantomData<I>,
}

impl<I, T> Default for Slab<I, T> {
    fn default() -> Self {
        Self { entries: Vec::new(), free: Vec::new(), index: std::marker::PhantomData }
    }
}

impl<I: Index, T> Slab<I, T> {
    pub(super) fn insert(&mut self, value: T) -> I {
        match self.free.pop() {
            Some(at) => {
                self.entries[at as usize] = Some(value);
                I::new(at as usize)
            }
            None => {
                self.entries.push(Some(value));
                I::new(self.entries.len() - 1)
            }
        }
    }

    pub(super) fn remove(&mut self, index: I) -> Option<T> {
        let value = self.entries.get_mut(index.at())?.take()?;
        self.free.push(u32::try_from(index.at()).expect("an index in use fits"));
        Some(value)
    }

    pub(super) fn get(&self, index: I) -> Option<&T> {
        self.entries.get(index.at())?.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (I, &T)> {
        self.entries.iter().enumerate().filter_map(|(at, entry)| Some((I::new(at), entry.as_ref()?)))
    }

    pub(super) fn indices(&self) -> Vec<I> {
        self.iter().map(|(index, _)| index).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}

/// An index that is out is an index in use: nobody keeps one past `remove`.
impl<I: Index, T> std::ops::Index<I> for Slab<I, T> {
    type Output = T;
    fn index(&self, index: I) -> &T {
        self.entries[index.at()].as_ref().expect("an index is dropped before its entry")
    }
}

impl<I: Index, T> std::ops::IndexMut<I> for Slab<I, T> {
    fn index_mut(&mut self, index: I) -> &mut T {
        self.entries[index.at()].as_mut().expect("an index is dropped before its entry")
    }
}
