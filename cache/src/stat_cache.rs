//! Which file held which content, so that unchanged files are not read again.
