//! Gives file data its place in a root file system, equal contents one place.

use std::{
    collections::HashMap,
    fs::File,
    hash::{DefaultHasher, Hasher},
    io::{self, Read},
    path::PathBuf,
};

use crate::{
    compressed,
    rootfs::{STORED_COMPRESSED, STORED_PLAIN},
    tree::{Content, Kind, NodeId, Tree},
    writer::{CHUNK, Error, Numbers, round_up},
};

/// Where file data goes.
pub(crate) struct Placed<'a> {
    /// Of each regular file, from the start of the root file system.
    pub(crate) places: HashMap<NodeId, Place>,
    /// What is written, in order, and where.
    pub(crate) data: Vec<(u64, Stored<'a>)>,
    /// Where it ends.
    pub(crate) end: u64,
}

/// Where and how a file's data is stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    pub(crate) stored: u32,
}

/// Data as it is written.
#[derive(Debug)]
pub(crate) enum Stored<'a> {
    Plain(&'a Content),
    Compressed(Vec<u8>),
}

/// Gives every file its place; equal contents share one.
pub(crate) fn place<'a>(
    tree: &'a Tree,
    numbers: &Numbers,
    start: u64,
    compress: bool,
) -> Result<Placed<'a>, Error> {
    let mut placed = Placed { places: HashMap::new(), data: Vec::new(), end: start };
    let mut by_length: HashMap<u64, SameLength<'a>> = HashMap::new();
    for (id, _) in &numbers.order {
        let Kind::Regular(content) = &tree.node(*id).kind else { continue };
        let length = content.length();
        if length == 0 {
            placed.places.insert(*id, Place { offset: start, stored: STORED_PLAIN });
            continue;
        }
        let same_length = by_length.entry(length).or_default();
        let place = match same_length.find(content)? {
            Some(place) => place,
            None => {
                let place = placed.add(content, compress)?;
                same_length.add(content, place);
                place
            }
        };
        placed.places.insert(*id, place);
    }
    placed.end = round_up(placed.end);
    Ok(placed)
}

impl<'a> Placed<'a> {
    /// Gives a content a place behind the others.
    fn add(&mut self, content: &'a Content, compress: bool) -> Result<Place, Error> {
        let length = content.length();
        let packed = if compress { packed(content)? } else { None };
        let (offset, taken, stored) = match &packed {
            Some(bytes) => (self.end, bytes.len() as u64, STORED_COMPRESSED),
            None => (round_up(self.end), length, STORED_PLAIN),
        };
        self.end = offset.checked_add(taken).filter(|end| *end < 1 << 60).ok_or(Error::TooLarge)?;
        self.data.push((offset, packed.map_or(Stored::Plain(content), Stored::Compressed)));
        Ok(Place { offset, stored })
    }
}

/// The content compressed, if an eighth or more is gained by that.
fn packed(content: &Content) -> Result<Option<Vec<u8>>, Error> {
    let failed = |source| match content {
        Content::File(path, _) => Error::Read { path: path.clone(), source },
        Content::Bytes(_) => Error::Write(source),
    };
    let length = content.length();
    // One byte more is read than expected, so that a file that grew is noticed.
    let mut counted = Counted { reader: open(content)?.take(length.saturating_add(1)), count: 0 };
    let packed = compressed::compress(&mut counted).map_err(failed)?;
    if let (Content::File(path, _), true) = (content, counted.count != length) {
        return Err(Error::Changed(path.clone()));
    }
    Ok(packed.filter(|packed| packed.len() as u64 <= round_up(length) / 8 * 7))
}

/// Counts what is read.
struct Counted<R> {
    reader: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.reader.read(buffer)?;
        self.count += got as u64;
        Ok(got)
    }
}

/// Contents of one length. They are read only when there are several, and compared only when their digests agree.
#[derive(Default)]
struct SameLength<'a> {
    /// The only one so far.
    single: Option<(&'a Content, Place)>,
    by_digest: HashMap<u64, Vec<(&'a Content, Place)>>,
    /// The digest of the content that was last looked for.
    digest: u64,
}

impl<'a> SameLength<'a> {
    /// Where an equal content is.
    fn find(&mut self, content: &'a Content) -> Result<Option<Place>, Error> {
        if let Some((single, at)) = self.single.take() {
            self.by_digest.entry(digest(single)?).or_default().push((single, at));
        }
        if self.by_digest.is_empty() {
            return Ok(None);
        }
        self.digest = digest(content)?;
        for (other, at) in self.by_digest.get(&self.digest).into_iter().flatten() {
            if equal(content, other)? {
                return Ok(Some(*at));
            }
        }
        Ok(None)
    }

    /// Adds the content that was looked for and not found.
    fn add(&mut self, content: &'a Content, at: Place) {
        if self.by_digest.is_empty() {
            self.single = Some((content, at));
        } else {
            self.by_digest.entry(self.digest).or_default().push((content, at));
        }
    }
}

fn digest(content: &Content) -> Result<u64, Error> {
    let mut hasher = DefaultHasher::new();
    let mut reader = open(content)?;
    let mut buffer = vec![0; CHUNK / 4];
    loop {
        let length = fill(&mut *reader, &mut buffer, content)?;
        hasher.write(&buffer[..length]);
        if length < buffer.len() {
            return Ok(hasher.finish());
        }
    }
}

/// Reads until the buffer is full or the content ends.
fn fill(reader: &mut dyn Read, buffer: &mut [u8], content: &Content) -> Result<usize, Error> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => {
                let path = match content {
                    Content::File(path, _) => path.clone(),
                    Content::Bytes(_) => PathBuf::new(),
                };
                return Err(Error::Read { path, source });
            }
        }
    }
    Ok(filled)
}

fn open(content: &Content) -> Result<Box<dyn Read + '_>, Error> {
    Ok(match content {
        Content::Bytes(bytes) => Box::new(bytes.as_slice()),
        Content::File(path, _) => {
            Box::new(File::open(path).map_err(|source| Error::Read { path: path.clone(), source })?)
        }
    })
}

/// Whether two contents of the same length are equal.
fn equal(left: &Content, right: &Content) -> Result<bool, Error> {
    if left == right {
        return Ok(true);
    }
    let (mut left_file, mut right_file) = (open(left)?, open(right)?);
    let (mut left_buffer, mut right_buffer) = (vec![0; CHUNK / 4], vec![0; CHUNK / 4]);
    loop {
        let left_length = fill(&mut *left_file, &mut left_buffer, left)?;
        let right_length = fill(&mut *right_file, &mut right_buffer, right)?;
        if left_buffer[..left_length] != right_buffer[..right_length] {
            return Ok(false);
        }
        if left_length < left_buffer.len() {
            return Ok(true);
        }
    }
}
