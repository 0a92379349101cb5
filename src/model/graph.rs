//! Describes a subgraph: its inputs and outputs, its operators, and which constants they use as weights.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::ModelError;
use super::buffers::Buffers;
use super::flatbuffer::{Field, Table, Tables};
use super::operator::{self, ASSIGN_VARIABLE, CUSTOM, Operand, VAR_HANDLE};
use super::schema::{model, operator as op_schema, operator_code, subgraph, tensor};
use super::tensor::TensorSummary;
use super::values::{OutputValues, Step, Steps};
use super::weights::{Collector, Use};

/// The index of an optional input that is not given.
const NO_TENSOR: i32 = -1;
/// Most operators in a row that only pass values on; converters write two or three.
const MAX_HOPS: usize = 8;

/// A subgraph's description.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Subgraph {
    pub name: Option<String>,
    pub inputs: Vec<TensorSummary>,
    pub outputs: Vec<OutputSummary>,
    /// By count, then by name.
    pub operators: Vec<OperatorCount>,
    pub operator_count: usize,
    pub tensor_count: usize,
    /// Tensors that keep their value from one invoke to the next.
    pub variable_tensors: usize,
    /// Operators that open a variable outside the tensors, as streaming models use.
    pub var_handles: usize,
    /// Operators that change such a variable.
    pub variables_changed: usize,
    /// The subgraphs that it runs, as branches and loops do.
    #[serde(skip)]
    pub calls: Vec<usize>,
    /// Tensors in TFLite's sparse format.
    pub sparse_format_tensors: usize,
    /// Tensors whose data is in another file.
    pub tensors_in_other_files: usize,
}

/// An output and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OutputSummary {
    #[serde(flatten)]
    pub tensor: TensorSummary,
    /// The operator that writes this tensor; `None` if it is an input or a constant.
    pub produced_by: Option<String>,
    /// The operator that computed the values, looking through those that only change layout or number format.
    pub computed_by: Option<String>,
    /// What its values are as scores of classes, as far as the operators tell.
    #[serde(rename = "scores")]
    pub values: OutputValues,
}

/// The number of times that an operator occurs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OperatorCount {
    /// The schema's name, a custom operator's own, or `UNKNOWN_<code>`.
    pub name: String,
    pub custom: bool,
    pub count: usize,
}

/// An operator that the model's subgraphs refer to by index.
pub(crate) struct OperatorCode {
    name: String,
    custom: bool,
}

impl OperatorCode {
    /// The schema's name; empty for a custom operator, whatever it calls itself.
    fn builtin(&self) -> &str {
        if self.custom { "" } else { &self.name }
    }
}

/// All operator codes of the model `root`.
pub(crate) fn operator_codes(root: Table) -> Result<Vec<OperatorCode>, ModelError> {
    let read = |table: Table| {
        // Codes from 127 on don't fit the old field, which then holds 127; old files lack the new one.
        let old = i32::from(table.i8(operator_code::DEPRECATED_BUILTIN_CODE)?.unwrap_or(0));
        let code = old.max(table.i32(operator_code::BUILTIN_CODE)?.unwrap_or(0));
        let custom = code == CUSTOM;
        let own_name = if custom { table.string(operator_code::CUSTOM_CODE)? } else { None };
        Ok(OperatorCode { name: own_name.unwrap_or_else(|| operator::name(code)), custom })
    };
    root.tables(model::OPERATOR_CODES)?.iter().map(|table| read(table?)).collect()
}

/// Reads subgraph `index` and adds the weights that it uses to `collector`.
pub(crate) fn read_subgraph<'s, 'a>(
    index: usize,
    table: Table<'s, 'a>,
    codes: &[OperatorCode],
    collector: &mut Collector<'s, 'a>,
) -> Result<Subgraph, ModelError> {
    let graph = Graph::read(table, codes)?;
    graph.collect_weights(index, collector)?;
    let mut summary = Subgraph {
        name: table.string(subgraph::NAME)?,
        inputs: graph.summaries(table, subgraph::INPUTS)?,
        outputs: graph.outputs(table, collector.buffers())?,
        operators: graph.count_operators(),
        operator_count: graph.operators.len(),
        tensor_count: graph.tensors.count,
        variable_tensors: 0,
        var_handles: graph.count(VAR_HANDLE),
        variables_changed: graph.count(ASSIGN_VARIABLE),
        calls: graph.operators.iter().flat_map(|op| op.calls.iter().copied()).collect(),
        sparse_format_tensors: 0,
        tensors_in_other_files: 0,
    };
    for tensor in graph.tensors.iter() {
        let tensor = tensor?;
        summary.variable_tensors += usize::from(tensor.bool(tensor::IS_VARIABLE)?);
        summary.sparse_format_tensors += usize::from(tensor.has(tensor::SPARSITY));
        let elsewhere = tensor.u32(tensor::EXTERNAL_BUFFER)?.unwrap_or(0) != 0;
        summary.tensors_in_other_files += usize::from(elsewhere);
    }
    Ok(summary)
}

/// Returns the subgraphs that the operator `table` of that name runs. An index that does not exist is left to the runtime.
fn subgraphs_called(table: Table, name: &str) -> Result<Vec<usize>, ModelError> {
    let count = operator::subgraphs_called(name);
    if count == 0 {
        return Ok(Vec::new());
    }
    let Some(options) = table.table(op_schema::OPTIONS)? else { return Ok(Vec::new()) };
    let fields = [op_schema::FIRST_CALLED, op_schema::SECOND_CALLED];
    let called = fields.iter().take(count).map(|field| options.u32(*field)).collect::<Result<Vec<_>, _>>()?;
    Ok(called.into_iter().map(|index| index.unwrap_or(0) as usize).collect())
}

struct Operator<'c, 's, 'a> {
    code_index: usize,
    code: &'c OperatorCode,
    table: Table<'s, 'a>,
    /// Where its table starts in the file, for errors.
    at: usize,
    inputs: Vec<i32>,
    /// The subgraphs that it runs.
    calls: Vec<usize>,
}

impl<'s, 'a> Operator<'_, 's, 'a> {
    fn step(&self) -> Step<'_, 's, 'a> {
        Step { name: &self.code.name, custom: self.code.custom, table: self.table, inputs: &self.inputs }
    }
}

struct Graph<'c, 's, 'a> {
    tensors: Tables<'s, 'a>,
    operators: Vec<Operator<'c, 's, 'a>>,
    /// For each tensor, the index in `operators` of the one that writes it.
    producers: HashMap<i32, usize>,
}

impl<'c, 's, 'a> Graph<'c, 's, 'a> {
    fn read(table: Table<'s, 'a>, codes: &'c [OperatorCode]) -> Result<Self, ModelError> {
        let tensors = table.tables(subgraph::TENSORS)?;
        let mut graph = Self { tensors, operators: Vec::new(), producers: HashMap::new() };
        for table in table.tables(subgraph::OPERATORS)?.iter() {
            let table = table?;
            let code_index = table.u32(op_schema::OPCODE_INDEX)?.unwrap_or(0) as usize;
            let code = codes.get(code_index).ok_or(ModelError::Index {
                field: op_schema::OPCODE_INDEX.name,
                at: table.at,
                index: code_index as i64,
                count: codes.len(),
            })?;
            let inputs = graph.indices(table, op_schema::INPUTS)?;
            for output in graph.indices(table, op_schema::OUTPUTS)? {
                graph.producers.insert(output, graph.operators.len());
            }
            let calls = subgraphs_called(table, code.builtin())?;
            graph.operators.push(Operator { code_index, code, table, at: table.at, inputs, calls });
        }
        Ok(graph)
    }

    /// Returns an operator's tensor indices, each checked or -1.
    fn indices(&self, table: Table, field: Field) -> Result<Vec<i32>, ModelError> {
        let indices = table.i32s(field)?;
        let inside = |index: i32| usize::try_from(index).is_ok_and(|index| index < self.tensors.count);
        match indices.iter().find(|&&index| index != NO_TENSOR && !inside(index)) {
            None => Ok(indices),
            Some(&index) => Err(ModelError::Index {
                field: field.name,
                at: table.at,
                index: i64::from(index),
                count: self.tensors.count,
            }),
        }
    }

    fn producer(&self, tensor: i32) -> Option<&Operator<'c, 's, 'a>> {
        self.producers.get(&tensor).and_then(|&position| self.operators.get(position))
    }

    /// Returns the tensor whose values `tensor` holds: follows it back through operators for which `passes` is true.
    fn origin(&self, tensor: i32, passes: fn(&str) -> bool) -> i32 {
        let mut origin = tensor;
        for _ in 0..MAX_HOPS {
            match self.producer(origin).map(|op| (op.code.builtin(), op.inputs.first())) {
                Some((name, Some(&input))) if passes(name) => origin = input,
                _ => break,
            }
        }
        origin
    }

    fn collect_weights(&self, subgraph: usize, collector: &mut Collector<'s, 'a>) -> Result<(), ModelError> {
        for op in &self.operators {
            for (position, &input) in op.inputs.iter().enumerate() {
                let operand = operator::operand(op.code.builtin(), position);
                let origin = self.origin(input, operator::unpacks);
                let Ok(tensor_index) = usize::try_from(origin) else { continue };
                if operand == Operand::Other || self.producer(origin).is_some() {
                    continue;
                }
                let table = self.tensors.get(i64::from(origin), (op.at, op_schema::INPUTS.name))?;
                collector.add(table, &Use { subgraph, tensor_index, operator: &op.code.name, operand })?;
            }
        }
        Ok(())
    }

    fn summaries(&self, table: Table, field: Field) -> Result<Vec<TensorSummary>, ModelError> {
        let summary = |index: i32| {
            let tensor = self.tensors.get(i64::from(index), (table.at, field.name))?;
            // `get` has refused a negative index.
            TensorSummary::read(tensor, index.unsigned_abs() as usize)
        };
        table.i32s(field)?.into_iter().map(summary).collect()
    }

    fn outputs(&self, table: Table, buffers: &Buffers<'s, 'a>) -> Result<Vec<OutputSummary>, ModelError> {
        let indices = table.i32s(subgraph::OUTPUTS)?;
        let steps = Steps {
            steps: self.operators.iter().map(Operator::step).collect(),
            producers: &self.producers,
            inputs: table.i32s(subgraph::INPUTS)?,
            tensors: self.tensors,
            buffers,
        };
        let values = steps.values_of(&indices)?;
        let output = |((tensor, index), values): ((TensorSummary, i32), OutputValues)| {
            let produced_by = self.producer(index).map_or("", |op| &op.code.name);
            let computed_by = self.producer(self.origin(index, operator::passes_values)).map_or("", |op| &op.code.name);
            table.charge(produced_by.len() + computed_by.len() + values.reason.len(), subgraph::OUTPUTS.name)?;
            let named = |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty());
            Ok(OutputSummary { tensor, produced_by: named(produced_by), computed_by: named(computed_by), values })
        };
        self.summaries(table, subgraph::OUTPUTS)?.into_iter().zip(indices).zip(values).map(output).collect()
    }

    /// Returns how many operators are the builtin one of that name.
    fn count(&self, name: &str) -> usize {
        self.operators.iter().filter(|op| op.code.builtin() == name).count()
    }

    fn count_operators(&self) -> Vec<OperatorCount> {
        // By code first: names can be long, and an untrusted file may use one very often.
        let mut by_code = HashMap::<usize, (&OperatorCode, usize)>::new();
        for op in &self.operators {
            by_code.entry(op.code_index).or_insert((op.code, 0)).1 += 1;
        }
        let mut by_name = BTreeMap::<(&str, bool), usize>::new();
        for (code, count) in by_code.into_values() {
            *by_name.entry((&code.name, code.custom)).or_default() += count;
        }
        let count = |((name, custom), count): ((&str, bool), usize)| OperatorCount { name: name.into(), custom, count };
        let mut operators: Vec<_> = by_name.into_iter().map(count).collect();
        operators.sort_by_key(|operator| std::cmp::Reverse(operator.count));
        operators
    }
}
