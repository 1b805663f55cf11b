//! Which schemas the workers of each capability gave: counted, so that it is known at once whether
//! they agree, however many there are.

use std::collections::HashMap;

use crate::fleet::{Capability, Offer, Payload};

/// The offers of all workers.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    exact: HashMap<Capability, Given>,
    patterns: HashMap<Capability, Given>,
}

/// The different schemas of one offered name, each with the number of workers that gave it.
#[derive(Debug, Default)]
struct Given(Vec<(Option<Payload>, usize)>);

impl Catalogue {
    /// Puts what a worker offers in the place of what it offered.
    pub(super) fn replace(&mut self, before: &[Offer], after: &[Offer]) {
        for offer in after {
            self.shelf(&offer.name).entry(offer.name.clone()).or_default().add(&offer.input_schema);
        }
        for offer in before {
            let shelf = self.shelf(&offer.name);
            if let Some(given) = shelf.get_mut(&offer.name) {
                given.remove(&offer.input_schema);
                if given.0.is_empty() {
                    shelf.remove(&offer.name);
                }
            }
        }
    }

    fn shelf(&mut self, name: &Capability) -> &mut HashMap<Capability, Given> {
        if name.as_str().ends_with('*') { &mut self.patterns } else { &mut self.exact }
    }

    /// The schema that every worker of a capability gave. None of them may have given another one, or
    /// none at all: then it would depend on the worker whether an input is right.
    pub(super) fn agreed(&self, capability: &Capability) -> Option<Payload> {
        let covering = self.patterns.iter().filter(|(name, _)| name.covers(capability));
        let mut given = self.exact.get(capability).into_iter().chain(covering.map(|(_, given)| given));
        let first = given.next()?.only()?;
        given.all(|other| other.only() == Some(first)).then(|| first.clone())
    }
}

impl Given {
    fn add(&mut self, schema: &Option<Payload>) {
        match self.0.iter_mut().find(|(known, _)| known == schema) {
            Some((_, workers)) => *workers += 1,
            None => self.0.push((schema.clone(), 1)),
        }
    }

    fn remove(&mut self, schema: &Option<Payload>) {
        if let Some(at) = self.0.iter().position(|(known, _)| known == schema) {
            self.0[at].1 -= 1;
            if self.0[at].1 == 0 {
                self.0.swap_remove(at);
            }
        }
    }

    /// The schema, if there is just one.
    fn only(&self) -> Option<&Payload> {
        match self.0.as_slice() {
            [(schema, _)] => schema.as_ref(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers(given: &[(&str, Option<&str>)]) -> Vec<Offer> {
        let offer = |(name, schema): &(&str, Option<&str>)| Offer {
            name: (*name).into(),
            description: None,
            input_schema: schema.map(Payload::from),
            idempotent: false,
        };
        given.iter().map(offer).collect()
    }

    fn agreed(catalogue: &Catalogue, capability: &str) -> Option<String> {
        catalogue.agreed(&capability.into()).map(|schema| schema.as_str().to_owned())
    }

    #[test]
    fn a_schema_counts_while_every_worker_gives_the_same() {
        let mut catalogue = Catalogue::default();
        let (one, other, none) =
            (offers(&[("a", Some("1"))]), offers(&[("a", Some("2"))]), offers(&[("a", None)]));
        catalogue.replace(&[], &one);
        catalogue.replace(&[], &one);
        assert_eq!(agreed(&catalogue, "a").as_deref(), Some("1"));
        for different in [&other, &none] {
            catalogue.replace(&[], different);
            assert_eq!(agreed(&catalogue, "a"), None);
            catalogue.replace(different, &[]);
            assert_eq!(agreed(&catalogue, "a").as_deref(), Some("1"));
        }
        catalogue.replace(&one, &other);
        assert_eq!(agreed(&catalogue, "a"), None);
        catalogue.replace(&one, &other);
        assert_eq!(agreed(&catalogue, "a").as_deref(), Some("2"));
        catalogue.replace(&other, &[]);
        catalogue.replace(&other, &[]);
        assert!(catalogue.exact.is_empty());
    }

    #[test]
    fn patterns_have_a_say_in_what_they_cover() {
        let mut catalogue = Catalogue::default();
        catalogue.replace(&[], &offers(&[("files.*", Some("1"))]));
        assert_eq!(agreed(&catalogue, "files.read").as_deref(), Some("1"));
        assert_eq!(agreed(&catalogue, "file"), None);
        catalogue.replace(&[], &offers(&[("files.read", Some("2"))]));
        assert_eq!(agreed(&catalogue, "files.read"), None);
        assert_eq!(agreed(&catalogue, "files.write").as_deref(), Some("1"));
    }
}
