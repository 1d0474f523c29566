//! Macros that forward the methods of Thrift's protocol traits, all of them: a default body would
//! take the place of what the inner protocol does itself.
//!
//! They stand in the trait's `impl` of a type that has these methods of its own:
//!
//! * `fn inner(&mut self) -> &mut …`, the protocol that does the work;
//! * `fn check<T>(&mut self, result: thrift::Result<T>) -> thrift::Result<T>`, which sees the result
//!   of every call and may change it;
//! * for input also `fn inner_ref(&self) -> &…`.

/// Every method of `TInputProtocol` but `read_message_begin`; with `but_end` also without
/// `read_message_end`, with `but_containers` without those that begin and end lists, sets and maps.
macro_rules! forward_input {
    () => {
        $crate::forward::forward_input! {
            read_message_end() -> ();
        }
        $crate::forward::forward_input!(but_end);
    };
    (but_end) => {
        $crate::forward::forward_input! {
            read_list_begin() -> ::thrift::protocol::TListIdentifier;
            read_list_end() -> ();
            read_set_begin() -> ::thrift::protocol::TSetIdentifier;
            read_set_end() -> ();
            read_map_begin() -> ::thrift::protocol::TMapIdentifier;
            read_map_end() -> ();
        }
        $crate::forward::forward_input!(@others);
    };
    (but_containers) => {
        $crate::forward::forward_input! {
            read_message_end() -> ();
        }
        $crate::forward::forward_input!(@others);
    };
    (@others) => {
        $crate::forward::forward_input! {
            read_struct_begin() -> Option<::thrift::protocol::TStructIdentifier>;
            read_struct_end() -> ();
            read_field_begin() -> ::thrift::protocol::TFieldIdentifier;
            read_field_end() -> ();
            read_bool() -> bool;
            read_bytes() -> Vec<u8>;
            read_i8() -> i8;
            read_i16() -> i16;
            read_i32() -> i32;
            read_i64() -> i64;
            read_double() -> f64;
            read_uuid() -> ::uuid::Uuid;
            read_string() -> String;
            skip(field_type: ::thrift::protocol::TType) -> ();
            skip_till_depth(field_type: ::thrift::protocol::TType, depth: i8) -> ();
            skip_binary() -> ();
            read_byte() -> u8;
        }

        fn min_serialized_size(&self, field_type: ::thrift::protocol::TType) -> usize {
            self.inner_ref().min_serialized_size(field_type)
        }
    };
    ($($method:ident($($name:ident: $type:ty),*) -> $output:ty;)+) => {
        $(fn $method(&mut self, $($name: $type),*) -> ::thrift::Result<$output> {
            let result = self.inner().$method($($name),*);
            self.check(result)
        })+
    };
}

/// Every method of `TOutputProtocol` but `write_message_begin`, `write_message_end` and `flush`.
macro_rules! forward_output {
    () => {
        $crate::forward::forward_output! {
            write_struct_begin(identifier: &::thrift::protocol::TStructIdentifier);
            write_struct_end();
            write_field_begin(identifier: &::thrift::protocol::TFieldIdentifier);
            write_field_end();
            write_field_stop();
            write_bool(b: bool);
            write_bytes(b: &[u8]);
            write_i8(i: i8);
            write_i16(i: i16);
            write_i32(i: i32);
            write_i64(i: i64);
            write_double(d: f64);
            write_uuid(uuid: &::uuid::Uuid);
            write_string(s: &str);
            write_list_begin(identifier: &::thrift::protocol::TListIdentifier);
            write_list_end();
            write_set_begin(identifier: &::thrift::protocol::TSetIdentifier);
            write_set_end();
            write_map_begin(identifier: &::thrift::protocol::TMapIdentifier);
            write_map_end();
            write_byte(b: u8);
        }
    };
    ($($method:ident($($name:ident: $type:ty),*);)+) => {
        $(fn $method(&mut self, $($name: $type),*) -> ::thrift::Result<()> {
            let result = self.inner().$method($($name),*);
            self.check(result)
        })+
    };
}

pub(crate) use {forward_input, forward_output};
