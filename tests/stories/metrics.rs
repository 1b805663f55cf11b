//! What a scrape shows.
