//! What the stories share: servers on port 0, scripted workers, waiting for conditions.
