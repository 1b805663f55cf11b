//! Adding, changing, moving and removing workers in the file, under load.
