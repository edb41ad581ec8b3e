//! What a queue holds: values that become bytes at push and values again at delivery.
//!
//! ```text
//!  push(value) ── encode ──► ring ── frame ── disk ── frame ── decode ──► sink
//!                 once, into the claimed bytes          the same way live and recovered
//! ```
//! | the type says                  | encoding goes                                          |
//! |--------------------------------|--------------------------------------------------------|
//! | `encoded_len() == Some(n)`     | straight into `n` claimed bytes of the ring            |
//! | `encoded_len() == None`        | into the producer's scratch buffer, then into the ring |
//!
//! A segment keeps the schema it was written with. At open every schema found is asked
//! [`Entry::accepts`]; at delivery [`Entry::decode_from`] is told which one it was.

use std::error::Error;
use std::fmt;

use crate::schema::Schema;

/// A type that a queue can hold.
///
/// Most types get it from `entry!` (serde) or `entry_pod!` (plain old data); bytes and strings have
/// it built in. By hand, implement either [`encode`](Self::encode), or
/// [`encoded_len`](Self::encoded_len) with [`encode_into`](Self::encode_into):
///
/// ```
/// use ringwal::{DecodeError, Entry, Schema};
///
/// struct Tick(u64);
///
/// impl Entry for Tick {
///     const SCHEMA: Schema = Schema::new("tick", 1);
///     fn encoded_len(&self) -> Option<usize> {
///         Some(8)
///     }
///     fn encode_into(&self, out: &mut [u8]) {
///         out.copy_from_slice(&self.0.to_le_bytes());
///     }
///     fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
///         let bytes = bytes.try_into().map_err(DecodeError::new)?;
///         Ok(Self(u64::from_le_bytes(bytes)))
///     }
/// }
///
/// let mut bytes = Vec::new();
/// Tick(7).encode(&mut bytes).unwrap();
/// assert_eq!(Tick::decode(&bytes).unwrap().0, 7);
/// ```
pub trait Entry: Sized + Send + 'static {
    /// Names the type and the version of its encoding. Stands in every segment's header.
    const SCHEMA: Schema;

    /// The length of the encoding in bytes, if that is known without encoding.
    fn encoded_len(&self) -> Option<usize> {
        None
    }

    /// Encodes into exactly [`encoded_len`](Self::encoded_len) bytes; asked only if that is known.
    ///
    /// # Panics
    /// Unless implemented.
    fn encode_into(&self, out: &mut [u8]) {
        panic!("{} knows its length ({} bytes) but does not implement encode_into", Self::SCHEMA, out.len());
    }

    /// Appends the encoding to `out`.
    ///
    /// # Errors
    /// When the value cannot be encoded. What was appended by then is thrown away.
    fn encode(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let len =
            self.encoded_len().ok_or_else(|| EncodeError::new("neither encode nor encoded_len is implemented"))?;
        let start = out.len();
        out.resize(start + len, 0);
        self.encode_into(&mut out[start..]);
        Ok(())
    }

    /// The value that was encoded as `bytes`, which come 8-byte aligned.
    ///
    /// # Errors
    /// When the bytes are no encoding of this type: the entry is then parked with its raw bytes.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError>;

    /// Whether entries of `schema` can be decoded. A directory that holds others is refused at open.
    #[must_use]
    fn accepts(schema: &Schema) -> bool {
        *schema == Self::SCHEMA
    }

    /// The value that was encoded as `bytes` under `schema`, one that [`accepts`](Self::accepts) knows.
    /// Not asked for entries of [`SCHEMA`](Self::SCHEMA) itself, which are what [`decode`](Self::decode) is for.
    ///
    /// # Errors
    /// As [`decode`](Self::decode); and when the schema is not accepted.
    fn decode_from(schema: &Schema, bytes: &[u8]) -> Result<Self, DecodeError> {
        if Self::accepts(schema) { Self::decode(bytes) } else { Err(DecodeError::schema(schema, &Self::SCHEMA)) }
    }

    /// Entries of one key reach the sink in the order in which they were pushed, by whatever thread, if all are pushed
    /// through [`Producer`](crate::Producer). A [`PinnedProducer`](crate::PinnedProducer) puts them into its own ring: its
    /// entries are ordered only among themselves. With [`in_flight_max`](crate::Builder::in_flight_max) above 1 it is keys
    /// that let batches go out side by side. Asked more than once for a push: it must always answer the same, and be cheap.
    fn key(&self) -> Option<u64> {
        None
    }
}

/// Entries whose encoding may be written by the producer, byte by byte, in the ring itself: bytes, and
/// plain-old-data types. See [`PinnedProducer::claim`](crate::PinnedProducer::claim).
pub trait InPlace: Entry {
    /// Whether an encoding may have this length.
    fn fits(len: usize) -> bool;
}

impl InPlace for Vec<u8> {
    fn fits(_len: usize) -> bool {
        true
    }
}

impl InPlace for Box<[u8]> {
    fn fits(_len: usize) -> bool {
        true
    }
}

macro_rules! error_of_bytes {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name(Box<dyn Error + Send + Sync>);

        impl $name {
            /// With this cause: an error, or a text.
            pub fn new(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
                Self(cause.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.0).finish()
            }
        }

        impl Error for $name {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                self.0.source()
            }
        }
    };
}

error_of_bytes!(
    /// Why a value cannot be encoded.
    EncodeError
);
error_of_bytes!(
    /// Why bytes are no value.
    DecodeError
);

impl DecodeError {
    /// The entry was written under a schema that the type does not accept.
    #[must_use]
    pub fn schema(found: &Schema, wanted: &Schema) -> Self {
        Self::new(format!("written as {found}, and {wanted} lists no conversion from it"))
    }
}

/// Bytes as they are. `Vec<u8>` and `Box<[u8]>` share a schema.
const BYTES: Schema = Schema::new("bytes", 1);

impl Entry for Vec<u8> {
    const SCHEMA: Schema = BYTES;

    fn encoded_len(&self) -> Option<usize> {
        Some(self.len())
    }

    fn encode_into(&self, out: &mut [u8]) {
        out.copy_from_slice(self);
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(bytes.to_vec())
    }
}

impl Entry for Box<[u8]> {
    const SCHEMA: Schema = BYTES;

    fn encoded_len(&self) -> Option<usize> {
        Some(self.len())
    }

    fn encode_into(&self, out: &mut [u8]) {
        out.copy_from_slice(self);
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(bytes.into())
    }
}

impl Entry for String {
    const SCHEMA: Schema = Schema::new("string", 1);

    fn encoded_len(&self) -> Option<usize> {
        Some(self.len())
    }

    fn encode_into(&self, out: &mut [u8]) {
        out.copy_from_slice(self.as_bytes());
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        std::str::from_utf8(bytes).map(str::to_owned).map_err(DecodeError::new)
    }
}

/// Makes a serde type an [`Entry`], encoded with postcard (feature `serde`, on by default).
///
/// ```
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct OrderV1 { id: u64 }
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Order { id: u64, price: Option<u64> }
///
/// impl From<OrderV1> for Order {
///     fn from(old: OrderV1) -> Self {
///         Self { id: old.id, price: None }
///     }
/// }
///
/// // The name outlives a renaming of the type; without it, the name is the type's as written here.
/// ringwal::entry!(Order, name = "orders", schema = 2, from = [1 => OrderV1]);
///
/// use ringwal::{Entry, Schema};
/// assert!(Order::accepts(&Schema::new("orders", 1)));
/// assert!(!Order::accepts(&Schema::new("orders", 3)));
/// ```
/// `schema` is 1 unless said. The encoding has no field names: whatever changes it (a field added,
/// removed, moved, of another type) needs the next `schema`, and `from` for those still in the log.
#[cfg(feature = "serde")]
#[macro_export]
macro_rules! entry {
    ($($of:tt)+) => { $crate::__entry!(serde; $($of)+); };
}

/// Makes a [`bytemuck::Pod`](https://docs.rs/bytemuck) type an [`Entry`]: one copy of its memory each
/// way (feature `pod`).
///
/// Takes the same options as `entry!`: `name`, `schema`, `from`. The encoding is the memory of this
/// machine, so the log must be read on machines of the same byte order.
#[cfg(feature = "pod")]
#[macro_export]
macro_rules! entry_pod {
    ($t:ty $(, $($options:tt)*)?) => {
        $crate::__entry!(pod; $t $(, $($options)*)?);

        impl $crate::InPlace for $t {
            fn fits(len: usize) -> bool {
                len == ::core::mem::size_of::<Self>()
            }
        }
    };
}

/// What `entry!` and `entry_pod!` have in common.
#[cfg(any(feature = "serde", feature = "pod"))]
#[doc(hidden)]
#[macro_export]
macro_rules! __entry {
    ($codec:ident; $t:ty $(,)?) => {
        $crate::__entry!(@ $codec; $t; ::core::stringify!($t); 1; []);
    };
    ($codec:ident; $t:ty, name = $name:expr $(,)?) => {
        $crate::__entry!(@ $codec; $t; $name; 1; []);
    };
    ($codec:ident; $t:ty, schema = $version:expr $(, from = [$($old:expr => $old_t:ty),* $(,)?])? $(,)?) => {
        $crate::__entry!(@ $codec; $t; ::core::stringify!($t); $version; [$($($old => $old_t),*)?]);
    };
    ($codec:ident; $t:ty, name = $name:expr, schema = $version:expr
        $(, from = [$($old:expr => $old_t:ty),* $(,)?])? $(,)?) => {
        $crate::__entry!(@ $codec; $t; $name; $version; [$($($old => $old_t),*)?]);
    };
    (@ $codec:ident; $t:ty; $name:expr; $version:expr; [$($old:expr => $old_t:ty),*]) => {
        impl $crate::Entry for $t {
            const SCHEMA: $crate::Schema = $crate::Schema::new($name, $version);

            fn encoded_len(&self) -> ::core::option::Option<usize> {
                $crate::__private::$codec::encoded_len::<Self>()
            }

            fn encode_into(&self, out: &mut [u8]) {
                $crate::__private::$codec::encode_into(self, out);
            }

            fn encode(
                &self,
                out: &mut $crate::__private::Vec<u8>,
            ) -> ::core::result::Result<(), $crate::EncodeError> {
                $crate::__private::$codec::encode(self, out)
            }

            fn decode(bytes: &[u8]) -> ::core::result::Result<Self, $crate::DecodeError> {
                $crate::__private::$codec::decode(bytes)
            }

            fn accepts(schema: &$crate::Schema) -> bool {
                *schema == Self::SCHEMA $(|| *schema == const { $crate::Schema::new($name, $old) })*
            }

            fn decode_from(
                schema: &$crate::Schema,
                bytes: &[u8],
            ) -> ::core::result::Result<Self, $crate::DecodeError> {
                if *schema == Self::SCHEMA {
                    return Self::decode(bytes);
                }
                $(if *schema == const { $crate::Schema::new($name, $old) } {
                    let old: $old_t = $crate::__private::$codec::decode(bytes)?;
                    return ::core::result::Result::Ok(::core::convert::From::from(old));
                })*
                ::core::result::Result::Err($crate::DecodeError::schema(schema, &Self::SCHEMA))
            }
        }
    };
}

/// What the macros' expansions reach, so that their users need none of our dependencies.
#[doc(hidden)]
pub mod __private {
    pub use std::vec::Vec;

    #[cfg(feature = "serde")]
    pub mod serde {
        //! Postcard, without copying through a buffer of its own.

        use crate::entry::{DecodeError, EncodeError};
        use ::serde::Serialize;
        use ::serde::de::DeserializeOwned;

        /// Appends to the caller's vector, slices at once.
        struct Append<'a>(&'a mut Vec<u8>);

        impl postcard::ser_flavors::Flavor for Append<'_> {
            type Output = ();

            fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
                self.0.push(byte);
                Ok(())
            }

            fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
                self.0.extend_from_slice(bytes);
                Ok(())
            }

            fn finalize(self) -> postcard::Result<()> {
                Ok(())
            }
        }

        #[must_use]
        pub fn encoded_len<T>() -> Option<usize> {
            None
        }

        pub fn encode_into<T: Serialize>(_: &T, _: &mut [u8]) {
            unreachable!("a serde entry does not know its length");
        }

        pub fn encode<T: Serialize>(value: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
            postcard::serialize_with_flavor(value, Append(out)).map_err(EncodeError::new)
        }

        pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
            match postcard::take_from_bytes(bytes) {
                Ok((value, [])) => Ok(value),
                Ok((_, rest)) => Err(DecodeError::new(format!("{} bytes are left over", rest.len()))),
                Err(error) => Err(DecodeError::new(error)),
            }
        }
    }

    #[cfg(feature = "pod")]
    pub mod pod {
        //! The memory of the value itself.

        use crate::entry::{DecodeError, EncodeError};
        use bytemuck::Pod;

        #[must_use]
        pub fn encoded_len<T>() -> Option<usize> {
            Some(size_of::<T>())
        }

        pub fn encode_into<T: Pod>(value: &T, out: &mut [u8]) {
            out.copy_from_slice(bytemuck::bytes_of(value));
        }

        pub fn encode<T: Pod>(value: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
            out.extend_from_slice(bytemuck::bytes_of(value));
            Ok(())
        }

        pub fn decode<T: Pod>(bytes: &[u8]) -> Result<T, DecodeError> {
            bytemuck::try_pod_read_unaligned(bytes)
                .map_err(|_| DecodeError::new(format!("{} bytes instead of {}", bytes.len(), size_of::<T>())))
        }
    }
}
