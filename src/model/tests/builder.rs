//! Writes flatbuffers for tests: small models with whatever the shipped ones lack, and files that no encoder writes.

use super::super::flatbuffer::Field;
use super::super::schema::{buffer, model, operator, operator_code, subgraph, tensor};
use super::super::tensor::ElementType;

pub(crate) enum Value {
    I8(i8),
    I32(i32),
    U64(u64),
    /// A vector of scalars: how many, and their bytes.
    Vector(usize, Vec<u8>),
    Table(Fields),
    Tables(Vec<Fields>),
    /// A vector whose entries all point at one table.
    Repeated(usize, Fields),
}

use Value::{I8, I32, Repeated, Table, Tables, U64, Vector};

pub(crate) type Fields = Vec<(Field, Value)>;

pub(crate) fn bytes(bytes: &[u8]) -> Value {
    Vector(bytes.len(), bytes.to_vec())
}

pub(crate) fn ints(values: &[i32]) -> Value {
    Vector(values.len(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

pub(crate) fn longs(values: &[i64]) -> Value {
    Vector(values.len(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

pub(crate) fn floats(values: &[f32]) -> Value {
    Vector(values.len(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

fn point(out: &mut [u8], at: usize, target: usize) {
    put(out, at, &u32::try_from(target - at).unwrap().to_le_bytes());
}

/// Writes a table after its vtable, eight bytes a field, then what it refers to; returns where the table starts.
fn write_table(out: &mut Vec<u8>, fields: &Fields) -> usize {
    let slots = fields.iter().map(|(field, _)| field.slot + 1).max().unwrap_or(0);
    let (vtable, vtable_bytes, table_bytes) = (out.len(), 4 + 2 * slots, 4 + 8 * fields.len());
    out.resize(vtable + vtable_bytes + table_bytes, 0);
    let at = vtable + vtable_bytes;
    put(out, vtable, &u16::try_from(vtable_bytes).unwrap().to_le_bytes());
    put(out, vtable + 2, &u16::try_from(table_bytes).unwrap().to_le_bytes());
    put(out, at, &i32::try_from(vtable_bytes).unwrap().to_le_bytes());
    for (position, (field, value)) in fields.iter().enumerate() {
        let place = 4 + 8 * position;
        put(out, vtable + 4 + 2 * field.slot, &u16::try_from(place).unwrap().to_le_bytes());
        write_value(out, at + place, value);
    }
    at
}

fn write_value(out: &mut Vec<u8>, place: usize, value: &Value) {
    let target = match value {
        I8(value) => return put(out, place, &value.to_le_bytes()),
        I32(value) => return put(out, place, &value.to_le_bytes()),
        U64(value) => return put(out, place, &value.to_le_bytes()),
        Table(fields) => write_table(out, fields),
        Vector(count, bytes) => {
            let at = write_count(out, *count);
            out.extend(bytes);
            at
        }
        Tables(tables) => {
            let at = write_count(out, tables.len());
            out.resize(at + 4 + 4 * tables.len(), 0);
            for (index, fields) in tables.iter().enumerate() {
                let target = write_table(out, fields);
                point(out, at + 4 + 4 * index, target);
            }
            at
        }
        Repeated(count, fields) => {
            let at = write_count(out, *count);
            out.resize(at + 4 + 4 * count, 0);
            let target = write_table(out, fields);
            (0..*count).for_each(|index| point(out, at + 4 + 4 * index, target));
            at
        }
    };
    point(out, place, target);
}

fn write_count(out: &mut Vec<u8>, count: usize) -> usize {
    let at = out.len();
    out.extend(u32::try_from(count).unwrap().to_le_bytes());
    at
}

/// A file whose root table has `fields`.
pub(crate) fn file(fields: &Fields) -> Vec<u8> {
    let mut out = b"\0\0\0\0TFL3".to_vec();
    let root = write_table(&mut out, fields);
    point(&mut out, 0, root);
    out
}

pub(crate) fn tensor_of(element: ElementType, shape: &[i32], buffer: i32) -> Fields {
    vec![
        (tensor::NAME, bytes(b"t")),
        (tensor::TYPE, I8(element.0)),
        (tensor::SHAPE, ints(shape)),
        (tensor::BUFFER, I32(buffer)),
    ]
}

pub(crate) fn op(code_index: i32, inputs: &[i32], outputs: &[i32]) -> Fields {
    vec![
        (operator::OPCODE_INDEX, I32(code_index)),
        (operator::INPUTS, ints(inputs)),
        (operator::OUTPUTS, ints(outputs)),
    ]
}

pub(crate) fn builtin(code: i32) -> Fields {
    vec![(operator_code::BUILTIN_CODE, I32(code))]
}

pub(crate) fn data(content: &[u8]) -> Fields {
    vec![(buffer::DATA, bytes(content))]
}

/// A subgraph whose input is tensor 0 and whose output is the last tensor.
pub(crate) fn graph_of(tensors: Vec<Fields>, ops: Vec<Fields>) -> Fields {
    let last = i32::try_from(tensors.len()).unwrap() - 1;
    vec![
        (subgraph::INPUTS, ints(&[0])),
        (subgraph::OUTPUTS, ints(&[last])),
        (subgraph::TENSORS, Tables(tensors)),
        (subgraph::OPERATORS, Tables(ops)),
    ]
}

/// A model with one subgraph.
pub(crate) fn model_of(codes: Vec<Fields>, graph: Fields, buffers: Vec<Fields>) -> Fields {
    vec![
        (model::VERSION, I32(3)),
        (model::OPERATOR_CODES, Tables(codes)),
        (model::SUBGRAPHS, Tables(vec![graph])),
        (model::BUFFERS, Tables(buffers)),
    ]
}

/// A fully connected layer whose kernel is tensor 1, in buffer 1, and whose bias is tensor 2, in buffer 2.
pub(crate) fn dense(kernel: Fields, kernel_data: Fields) -> Fields {
    let float = |buffer| tensor_of(ElementType::FLOAT32, &[2], buffer);
    let graph = graph_of(vec![float(0), kernel, float(2), float(0)], vec![op(0, &[0, 1, 2], &[3])]);
    model_of(vec![builtin(9)], graph, vec![vec![], kernel_data, data(&[0; 8])])
}
