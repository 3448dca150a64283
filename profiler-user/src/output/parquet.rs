//! Parquet: one row for each stack and set of labels of a window, for DuckDB, ClickHouse, Spark.
//!
//! In: profiles, one after the other. Out: a file with a row group for every [`ROWS`] rows. What a column holds is told by [`SCHEMA`]; `value` is the
//! value that other outputs show, and `samples` the count beside it, where the profile has one.

use std::io::Write;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::{OutputError, OutputOptions};
use crate::profile::Profile;
use crate::system::target::{Home, container_name};

/// Rows of a group: some megabytes in memory.
const ROWS: usize = 20_000;

/// The columns. Times are UTC, stacks leaf first, with every inlined function.
const SCHEMA: &str = "message profile {
    required int64 time (TIMESTAMP(NANOS, true));
    required int64 duration_ns;
    required binary type (STRING);
    required binary host (STRING);
    required int32 pid;
    required int32 tid;
    required binary process (STRING);
    required binary thread (STRING);
    optional binary cgroup (STRING);
    optional binary container (STRING);
    optional binary container_name (STRING);
    optional binary build_id (STRING);
    required binary module (STRING);
    required binary function (STRING);
    required group stack (LIST) { repeated group list { required binary element (STRING); } }
    optional int64 samples;
    required int64 value;
    required binary kind (STRING);
    required binary unit (STRING);
}";

fn failed(error: ParquetError) -> OutputError {
    OutputError::Io(std::io::Error::other(error))
}

/// A column of texts: values that are there, and which rows have one.
#[derive(Default)]
struct Texts {
    values: Vec<ByteArray>,
    levels: Vec<i16>,
}

impl Texts {
    fn push(&mut self, value: Option<ByteArray>) {
        self.levels.push(i16::from(value.is_some()));
        self.values.extend(value);
    }
}

/// Rows that are not written yet, column by column.
#[derive(Default)]
struct Columns {
    rows: usize,
    times: Vec<i64>,
    durations: Vec<i64>,
    pids: Vec<i32>,
    tids: Vec<i32>,
    /// Type, host, process, thread; module, function; kind, unit.
    required: [Texts; 8],
    /// Control group, container's ID and name; build ID.
    optional: [Texts; 4],
    frames: Vec<ByteArray>,
    frame_definitions: Vec<i16>,
    frame_repetitions: Vec<i16>,
    samples: Vec<i64>,
    sample_levels: Vec<i16>,
    values: Vec<i64>,
}

/// Writes profiles into one file.
pub(crate) struct ParquetWriter<W: Write + Send> {
    file: SerializedFileWriter<W>,
    columns: Columns,
}

fn text(text: &str) -> ByteArray {
    ByteArray::from(text.as_bytes().to_vec())
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl<W: Write + Send> ParquetWriter<W> {
    /// Begins a file.
    pub(crate) fn new(out: W) -> Result<Self, OutputError> {
        let schema = Arc::new(parse_message_type(SCHEMA).map_err(failed)?);
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(concat!("perf-agent ", env!("CARGO_PKG_VERSION")).to_owned());
        let file = SerializedFileWriter::new(out, schema, Arc::new(properties.build())).map_err(failed)?;
        Ok(Self { file, columns: Columns::default() })
    }

    /// Adds a profile's rows.
    pub(crate) fn add(&mut self, profile: &Profile) -> Result<(), OutputError> {
        let value = profile.default_value();
        let count = profile.value_types.iter().position(|value| value.unit == "count");
        let (kind, unit) = profile
            .value_types
            .get(value)
            .map_or(("", ""), |value| (value.kind.as_str(), value.unit.as_str()));
        let meta = &profile.meta;
        let whole = [&*meta.profile_type, &meta.host, kind, unit].map(text);
        let names: Vec<Vec<ByteArray>> = profile
            .locations
            .iter()
            .map(|location| location.frames.iter().map(|frame| text(&frame.function)).collect())
            .collect();
        let labels: Vec<[Option<ByteArray>; 5]> = profile
            .labels
            .iter()
            .map(|labels| {
                let home = labels.cgroup.as_deref().map(Home::of_group);
                let id = home.and_then(|home| home.container).map(|container| container.id);
                let name = id.as_deref().and_then(container_name);
                [
                    Some(text(&labels.process)),
                    Some(text(&labels.thread)),
                    labels.cgroup.as_deref().map(text),
                    id.as_deref().map(text),
                    name.map(|name| text(&name.name)),
                ]
            })
            .collect();
        for sample in &profile.samples {
            let (stack, who) = (profile.stack(sample.stack), profile.labels_of(sample));
            let leaf = stack.first().map(|id| profile.location(*id));
            let mapping = leaf.and_then(|leaf| leaf.mapping).map(|id| &profile.mappings[id.0 as usize]);
            let columns = &mut self.columns;
            columns.times.push(signed(meta.start_unix_ns));
            columns.durations.push(signed(meta.duration_ns));
            columns.pids.push(who.pid.cast_signed());
            columns.tids.push(who.tid.cast_signed());
            let [process, thread, cgroup, container, container_name] =
                labels[sample.labels.0 as usize].clone();
            let [profile_type, host, kind, unit] = whole.clone().map(Some);
            let module = text(mapping.map_or("", |mapping| mapping.module()));
            let function = leaf.and_then(|leaf| leaf.frames.first()).map_or("", |frame| &*frame.function);
            let required =
                [profile_type, host, process, thread, Some(module), Some(text(function)), kind, unit];
            columns.required.iter_mut().zip(required).for_each(|(column, value)| column.push(value));
            let build_id = mapping.map(|mapping| &*mapping.build_id).filter(|id| !id.is_empty()).map(text);
            let optional = [cgroup, container, container_name, build_id];
            columns.optional.iter_mut().zip(optional).for_each(|(column, value)| column.push(value));
            let before = columns.frames.len();
            columns.frames.extend(stack.iter().flat_map(|id| names[id.0 as usize].iter().cloned()));
            let added = columns.frames.len() - before;
            columns.frame_definitions.extend(std::iter::repeat_n(1, added));
            columns.frame_repetitions.extend((0..added).map(|index| i16::from(index > 0)));
            if added == 0 {
                columns.frame_definitions.push(0);
                columns.frame_repetitions.push(0);
            }
            let number = |index: usize| signed(sample.values.get(index).copied().unwrap_or_default());
            columns.sample_levels.push(i16::from(count.is_some()));
            columns.samples.extend(count.map(number));
            columns.values.push(number(value));
            columns.rows += 1;
            if columns.rows >= ROWS {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), OutputError> {
        let columns = std::mem::take(&mut self.columns);
        if columns.rows == 0 {
            return Ok(());
        }
        let mut open = self.file.next_row_group().map_err(failed)?;
        let [profile_type, host, process, thread, module, function, kind, unit] = &columns.required;
        let [cgroup, container, container_name, build_id] = &columns.optional;
        let group = &mut open;
        put::<Int64Type, W>(group, &columns.times, None, None)?;
        put::<Int64Type, W>(group, &columns.durations, None, None)?;
        put::<ByteArrayType, W>(group, &profile_type.values, None, None)?;
        put::<ByteArrayType, W>(group, &host.values, None, None)?;
        put::<Int32Type, W>(group, &columns.pids, None, None)?;
        put::<Int32Type, W>(group, &columns.tids, None, None)?;
        put::<ByteArrayType, W>(group, &process.values, None, None)?;
        put::<ByteArrayType, W>(group, &thread.values, None, None)?;
        for column in [cgroup, container, container_name, build_id] {
            put::<ByteArrayType, W>(group, &column.values, Some(&column.levels), None)?;
        }
        put::<ByteArrayType, W>(group, &module.values, None, None)?;
        put::<ByteArrayType, W>(group, &function.values, None, None)?;
        let (definitions, repetitions) = (&columns.frame_definitions, &columns.frame_repetitions);
        put::<ByteArrayType, W>(group, &columns.frames, Some(definitions), Some(repetitions))?;
        put::<Int64Type, W>(group, &columns.samples, Some(&columns.sample_levels), None)?;
        put::<Int64Type, W>(group, &columns.values, None, None)?;
        put::<ByteArrayType, W>(group, &kind.values, None, None)?;
        put::<ByteArrayType, W>(group, &unit.values, None, None)?;
        open.close().map_err(failed)?;
        Ok(())
    }

    /// Ends the file.
    pub(crate) fn finish(mut self) -> Result<W, OutputError> {
        self.flush()?;
        self.file.into_inner().map_err(failed)
    }
}

fn put<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    definitions: Option<&[i16]>,
    repetitions: Option<&[i16]>,
) -> Result<(), OutputError> {
    let Some(mut column) = group.next_column().map_err(failed)? else { return Ok(()) };
    column.typed::<T>().write_batch(values, definitions, repetitions).map_err(failed)?;
    column.close().map_err(failed)
}

/// Writes one profile.
pub(super) fn write(profile: &Profile, _: &OutputOptions, out: &mut dyn Write) -> Result<(), OutputError> {
    let mut writer = ParquetWriter::new(Vec::new())?;
    writer.add(profile)?;
    out.write_all(&writer.finish()?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;

    use super::*;
    use crate::output::fixture;

    #[test]
    fn what_is_written_is_read_with_its_sums_and_stacks() {
        for profile in [fixture::hostile(), fixture::recursive(), fixture::empty()] {
            let mut writer = ParquetWriter::new(Vec::new()).unwrap();
            writer.add(&profile).unwrap();
            writer.add(&profile).unwrap();
            let reader = SerializedFileReader::new(bytes::Bytes::from(writer.finish().unwrap())).unwrap();
            let (mut rows, mut values, mut samples) = (0, 0, 0);
            for (row, sample) in reader.get_row_iter(None).unwrap().zip(profile.samples.iter().cycle()) {
                let row = row.unwrap();
                let column = |name: &str| row.get_column_iter().position(|(known, _)| known == name).unwrap();
                let who = profile.labels_of(sample);
                assert_eq!(row.get_string(column("process")).unwrap(), &*who.process);
                assert_eq!(row.get_int(column("pid")).unwrap(), who.pid.cast_signed());
                let stack = row.get_list(column("stack")).unwrap();
                let known = profile.stack(sample.stack).iter().flat_map(|id| &profile.location(*id).frames);
                let known: Vec<String> = known.map(|frame| frame.function.to_string()).collect();
                let found: Vec<String> = stack
                    .elements()
                    .iter()
                    .map(|element| match element {
                        parquet::record::Field::Str(text) => text.clone(),
                        other => panic!("{other}"),
                    })
                    .collect();
                assert_eq!(found, known);
                values += row.get_long(column("value")).unwrap() as u64;
                samples += row.get_long(column("samples")).unwrap() as u64;
                rows += 1;
            }
            assert_eq!(rows, 2 * profile.samples.len());
            assert_eq!((samples, values), (2 * profile.total(0), 2 * profile.total(1)));
        }
    }
}
