//! Whatever comes, it gets exactly one well-formed reply within the limits, in bounded memory, and
//! what comes next is served.

use allocation_counter::measure;
use thrift::protocol::{
    TBinaryInputProtocol, TBinaryOutputProtocol, TCompactInputProtocol, TCompactOutputProtocol,
    TFieldIdentifier, TInputProtocol, TListIdentifier, TMapIdentifier, TMessageIdentifier,
    TMessageType, TOutputProtocol, TSetIdentifier, TStructIdentifier, TType,
};
use thrift::server::{TProcessor, handle_process_result};
use thrift::{ApplicationError, ApplicationErrorKind};
use thrift_homa::{Limits, Reply, process_message};

use crate::source::{Source, fuzz};

const LIMIT: usize = 16_000;

/// Several times what a request and its reply may take, and a pair of buffers.
const MEMORY: u64 = 2 << 20;

/// Reads anything, and answers by the same.
struct Mirror;

impl TProcessor for Mirror {
    fn process(
        &self,
        input: &mut dyn TInputProtocol,
        output: &mut dyn TOutputProtocol,
    ) -> thrift::Result<()> {
        let header = input.read_message_begin()?;
        let result = match &*header.name {
            "mirror" => mirror(&header, input, output),
            "skip" => input.skip(TType::Struct).and_then(|()| {
                reply(&header, output)?;
                empty(output)
            }),
            "ping" => reply(&header, output).and_then(|()| empty(output)),
            "panic" => panic!("asked to"),
            "silent" => Ok(()),
            // More than may be sent.
            "long" => reply(&header, output).and_then(|()| output.write_bytes(&[7; LIMIT])),
            "half" => reply(&header, output).and_then(|()| Err("half way".into())),
            _ => Err(thrift::Error::Application(ApplicationError::new(
                ApplicationErrorKind::UnknownMethod,
                format!("unknown method {}", header.name),
            ))),
        };
        handle_process_result(&header, result, output)
    }
}

fn reply(header: &TMessageIdentifier, output: &mut dyn TOutputProtocol) -> thrift::Result<()> {
    let number = header.sequence_number;
    let header = TMessageIdentifier::new(&*header.name, TMessageType::Reply, number);
    output.write_message_begin(&header)
}

fn empty(output: &mut dyn TOutputProtocol) -> thrift::Result<()> {
    output.write_struct_begin(&TStructIdentifier::new("empty"))?;
    output.write_field_stop()?;
    output.write_struct_end()?;
    output.write_message_end()?;
    output.flush()
}

fn mirror(
    header: &TMessageIdentifier,
    input: &mut dyn TInputProtocol,
    output: &mut dyn TOutputProtocol,
) -> thrift::Result<()> {
    reply(header, output)?;
    value(TType::Struct, input, output)?;
    input.read_message_end()?;
    output.write_message_end()?;
    output.flush()
}

fn value(
    kind: TType,
    input: &mut dyn TInputProtocol,
    output: &mut dyn TOutputProtocol,
) -> thrift::Result<()> {
    match kind {
        TType::Bool => output.write_bool(input.read_bool()?),
        TType::I08 => output.write_i8(input.read_i8()?),
        TType::I16 => output.write_i16(input.read_i16()?),
        TType::I32 => output.write_i32(input.read_i32()?),
        TType::I64 => output.write_i64(input.read_i64()?),
        TType::Double => output.write_double(input.read_double()?),
        TType::Uuid => output.write_uuid(&input.read_uuid()?),
        TType::String => output.write_bytes(&input.read_bytes()?),
        TType::Struct => {
            input.read_struct_begin()?;
            output.write_struct_begin(&TStructIdentifier::new("mirrored"))?;
            loop {
                let field = input.read_field_begin()?;
                if field.field_type == TType::Stop {
                    break;
                }
                output.write_field_begin(&field)?;
                value(field.field_type, input, output)?;
                input.read_field_end()?;
                output.write_field_end()?;
            }
            input.read_struct_end()?;
            output.write_field_stop()?;
            output.write_struct_end()
        }
        TType::List => {
            let list = input.read_list_begin()?;
            output.write_list_begin(&list)?;
            (0..list.size).try_for_each(|_| value(list.element_type, input, output))?;
            input.read_list_end()?;
            output.write_list_end()
        }
        TType::Set => {
            let set = input.read_set_begin()?;
            output.write_set_begin(&set)?;
            (0..set.size).try_for_each(|_| value(set.element_type, input, output))?;
            input.read_set_end()?;
            output.write_set_end()
        }
        TType::Map => {
            let map = input.read_map_begin()?;
            output.write_map_begin(&map)?;
            if let (Some(key), Some(of)) = (map.key_type, map.value_type) {
                (0..map.size).try_for_each(|_| {
                    value(key, input, output)?;
                    value(of, input, output)
                })?;
            }
            input.read_map_end()?;
            output.write_map_end()
        }
        other => Err(format!("nothing is of type {other}").into()),
    }
}

const NAMES: [&str; 9] = [
    "mirror",
    "skip",
    "ping",
    "panic",
    "silent",
    "long",
    "half",
    "nope",
    "Service:mirror",
];

const KINDS: [TMessageType; 4] = [
    TMessageType::Call,
    TMessageType::OneWay,
    TMessageType::Reply,
    TMessageType::Exception,
];

const TYPES: [TType; 12] = [
    TType::Bool,
    TType::I08,
    TType::I16,
    TType::I32,
    TType::I64,
    TType::Double,
    TType::String,
    TType::Uuid,
    TType::Struct,
    TType::List,
    TType::Set,
    TType::Map,
];

/// Bytes as they come, or mostly a message, in which some bytes are wrong or missing.
fn request(source: &mut Source<'_>) -> Vec<u8> {
    if source.below(4) == 0 {
        return source.take(usize::MAX).to_vec();
    }
    let mut bytes = Vec::new();
    {
        let mut output: Box<dyn TOutputProtocol> = match source.below(3) {
            0 => Box::new(TBinaryOutputProtocol::new(&mut bytes, true)),
            1 => Box::new(TBinaryOutputProtocol::new(&mut bytes, false)),
            _ => Box::new(TCompactOutputProtocol::new(&mut bytes)),
        };
        let name = NAMES[source.below(NAMES.len())];
        let kind = KINDS[source.below(16).saturating_sub(12)];
        let header = TMessageIdentifier::new(name, kind, source.i64() as i32);
        let written = output
            .write_message_begin(&header)
            .and_then(|()| anything(TType::Struct, source, &mut *output, 0));
        // Too deep for the crate's own limit: what was written so far will do.
        let _ = written.and_then(|()| output.write_message_end());
    }
    while source.once_in(2) && !source.is_empty() {
        let at = source.i64() as usize % bytes.len().max(1);
        match source.below(4) {
            0 => bytes.truncate(at),
            // What claims a great length, mostly.
            1 => bytes
                .splice(at..at, [0x7F, 0xFF, 0xFF, 0xFF])
                .for_each(drop),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = source.u8();
                }
            }
        }
    }
    bytes
}

/// Writes a value of this type.
fn anything(
    kind: TType,
    source: &mut Source<'_>,
    output: &mut dyn TOutputProtocol,
    depth: usize,
) -> thrift::Result<()> {
    // Deeper than is read, but not much.
    let types = if depth > 80 { 8 } else { TYPES.len() };
    let any_type = |source: &mut Source<'_>| TYPES[source.below(types)];
    // When the decisions are used up, the shortest is taken.
    let size = source.below(4);
    match kind {
        TType::Bool => output.write_bool(source.u8() > 127),
        TType::I08 => output.write_i8(source.u8() as i8),
        TType::I16 => output.write_i16(source.i64() as i16),
        TType::I32 => output.write_i32(source.i64() as i32),
        TType::I64 => output.write_i64(source.i64()),
        TType::Double => output.write_double(f64::from_bits(source.i64() as u64)),
        TType::Uuid => output.write_uuid(&uuid::Uuid::from_u128(source.i64() as u128)),
        TType::String => {
            let len = source.below(64);
            output.write_bytes(source.take(len))
        }
        TType::List => {
            let element = any_type(source);
            output.write_list_begin(&TListIdentifier::new(element, size as i32))?;
            (0..size).try_for_each(|_| anything(element, source, output, depth + 1))?;
            output.write_list_end()
        }
        TType::Set => {
            let element = any_type(source);
            output.write_set_begin(&TSetIdentifier::new(element, size as i32))?;
            (0..size).try_for_each(|_| anything(element, source, output, depth + 1))?;
            output.write_set_end()
        }
        TType::Map => {
            let (key, of) = (any_type(source), any_type(source));
            output.write_map_begin(&TMapIdentifier::new(key, of, size as i32))?;
            for _ in 0..size {
                anything(key, source, output, depth + 1)?;
                anything(of, source, output, depth + 1)?;
            }
            output.write_map_end()
        }
        _ => {
            output.write_struct_begin(&TStructIdentifier::new("any"))?;
            for id in 1..=size as i16 {
                let kind = any_type(source);
                output.write_field_begin(&TFieldIdentifier::new("any", kind, id))?;
                anything(kind, source, output, depth + 1)?;
                output.write_field_end()?;
            }
            output.write_field_stop()?;
            output.write_struct_end()
        }
    }
}

/// What a reply begins with is how its request was encoded.
fn decoder<'a>(bytes: &'a mut &[u8]) -> Box<dyn TInputProtocol + 'a> {
    match bytes.first() {
        Some(0x82) => Box::new(TCompactInputProtocol::new(bytes)),
        _ => Box::new(TBinaryInputProtocol::new(bytes, false)),
    }
}

/// Checks that it is one message, or one control reply, and nothing else.
fn check(request: &[u8], reply: &[u8]) {
    assert!((1..=LIMIT).contains(&reply.len()), "{} bytes", reply.len());
    if reply[0] >= 0xF0 {
        assert!((0xF1..=0xF3).contains(&reply[0]), "{reply:02x?}");
        let text = std::str::from_utf8(&reply[1..]).expect("a text");
        assert!(text.len() <= 1024 && (reply[0] != 0xF1 || text.is_empty()));
        return;
    }
    assert_eq!(reply[0], request[0], "in the protocol of the request");
    let asked = decoder(&mut &*request).read_message_begin();
    let asked = asked.expect("only what has a header has such a reply");
    let mut rest = reply;
    {
        let mut input = decoder(&mut rest);
        let header = input.read_message_begin().expect("a header");
        assert_eq!(header.sequence_number, asked.sequence_number);
        match header.message_type {
            TMessageType::Reply => {
                assert_eq!(asked.message_type, TMessageType::Call);
                input.skip(TType::Struct).expect("a structure");
            }
            TMessageType::Exception => {
                let method = asked.name.rsplit(':').next();
                assert_eq!(Some(&*header.name), method);
                thrift::Error::read_application_error_from_in_protocol(&mut *input)
                    .expect("an exception");
            }
            other => panic!("{other}"),
        }
        input.read_message_end().expect("its end");
    }
    assert!(rest.is_empty(), "{} bytes more", rest.len());
}

fn any_request(mut source: Source<'_>) {
    let request = request(&mut source);
    let limits = Limits::for_messages(LIMIT);
    let mut reply = None;
    let memory = measure(|| reply = Some(process_message(&Mirror, &request, &limits)));
    assert!(memory.bytes_max < MEMORY, "{} bytes", memory.bytes_max);
    match reply {
        Some(Reply::Message(reply)) => check(&request, &reply.into_bytes()),
        Some(Reply::Oneway) => {
            let asked = decoder(&mut &*request).read_message_begin();
            assert_eq!(asked.expect("a header").message_type, TMessageType::OneWay);
        }
        None => panic!("no reply"),
    }
    // Nothing of it is left for the next one.
    let ping = b"\x82\x21\x01\x04ping\0";
    let Reply::Message(pong) = process_message(&Mirror, ping, &limits) else {
        panic!("it was no oneway");
    };
    assert_eq!(pong.into_bytes(), b"\x82\x41\x01\x04ping\0".as_slice());
}

#[test]
fn every_request_gets_one_reply_within_the_limits_and_the_next_is_served() {
    // A panic of the handler is an ordinary reply here, and not worth a line each.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.payload().downcast_ref() != Some(&"asked to") {
            hook(panic);
        }
    }));
    fuzz!(any_request, 3_000, 1_500);
}
