//! Events as an Apache Parquet file: one typed column for each field, zstd,
//! without arrow.
//!
//! | field | column |
//! |---|---|
//! | text | optional BYTE_ARRAY, STRING |
//! | number | optional INT64 |
//! | yes or no | optional BOOLEAN |
//! | time | optional INT64, TIMESTAMP in nanoseconds, UTC |
//! | texts | optional LIST of required STRING |
//!
//! A field that an event does not have is null. The file's metadata has the
//! summary of the export under `shrike.summary`.

use std::{io::Write, sync::Arc};

use parquet::{
    basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel},
    data_type::{BoolType, ByteArray, ByteArrayType, Int64Type},
    errors::ParquetError,
    file::{
        metadata::KeyValue,
        properties::WriterProperties,
        writer::{SerializedColumnWriter, SerializedFileWriter},
    },
    schema::types::{Type, TypePtr},
};
use shrike_proto::event::{
    StoredEvent,
    field::{Field, FieldType, FieldValue},
};

use crate::failure::Failure;

/// Rows in a row group: what DuckDB reads as one piece of work.
const ROWS_MAX: usize = 122_880;

/// Bytes of text in a row group, which bounds memory where lines are long.
const BYTES_MAX: usize = 64 << 20;

/// Writes rows, a row group at a time.
pub(super) struct ParquetWriter<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    columns: Vec<Column>,
    rows: usize,
    bytes: usize,
}

impl<W: Write + Send> ParquetWriter<W> {
    pub(super) fn new(sink: W) -> Result<Self, Failure> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_created_by(concat!("shrikectl ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let schema = schema().map_err(failed)?;
        Ok(Self {
            writer: SerializedFileWriter::new(sink, schema, Arc::new(properties))
                .map_err(failed)?,
            columns: Field::ALL.iter().map(|field| Column::new(*field)).collect(),
            rows: 0,
            bytes: 0,
        })
    }

    pub(super) fn write(&mut self, stored: &StoredEvent) -> Result<(), Failure> {
        for (field, column) in Field::ALL.iter().zip(&mut self.columns) {
            let value = field.of(&stored.node, stored.epoch, &stored.event);
            self.bytes += column.push(value);
        }
        self.rows += 1;
        if self.rows >= ROWS_MAX || self.bytes >= BYTES_MAX {
            self.flush().map_err(failed)?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self, summary: &str) -> Result<(), Failure> {
        self.flush().map_err(failed)?;
        self.writer.append_key_value_metadata(KeyValue::new(
            "shrike.summary".to_owned(),
            summary.to_owned(),
        ));
        self.writer.close().map_err(failed)?;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ParquetError> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut group = self.writer.next_row_group()?;
        for column in &mut self.columns {
            let mut writer = group
                .next_column()?
                .ok_or_else(|| ParquetError::General("the schema has fewer columns".to_owned()))?;
            column.write(&mut writer)?;
            writer.close()?;
        }
        group.close()?;
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }
}

fn failed(error: ParquetError) -> Failure {
    match error {
        // A reader that went away is told apart by its kind.
        ParquetError::External(source) => match source.downcast::<std::io::Error>() {
            Ok(error) => Failure::failed(*error),
            Err(source) => Failure::failed(anyhow::anyhow!(source)),
        },
        error => Failure::failed(error),
    }
    .doing("cannot write Parquet")
}

fn schema() -> Result<TypePtr, ParquetError> {
    let columns: Result<Vec<TypePtr>, ParquetError> = Field::ALL
        .iter()
        .map(|field| {
            let leaf = |physical, logical: Option<LogicalType>| {
                Type::primitive_type_builder(field.name(), physical)
                    .with_repetition(Repetition::OPTIONAL)
                    .with_logical_type(logical)
                    .build()
            };
            Ok(Arc::new(match field.field_type() {
                FieldType::Bool => leaf(Physical::BOOLEAN, None)?,
                FieldType::Int => leaf(Physical::INT64, None)?,
                FieldType::Text => leaf(Physical::BYTE_ARRAY, Some(LogicalType::String))?,
                FieldType::Time => leaf(
                    Physical::INT64,
                    Some(LogicalType::timestamp(true, TimeUnit::NANOS)),
                )?,
                FieldType::Texts => list(field.name())?,
            }))
        })
        .collect();
    let schema = Type::group_type_builder("event")
        .with_fields(columns?)
        .build()?;
    Ok(Arc::new(schema))
}

/// The three levels that the format's specification asks for (LogicalTypes.md).
fn list(name: &str) -> Result<Type, ParquetError> {
    let element = Type::primitive_type_builder("element", Physical::BYTE_ARRAY)
        .with_repetition(Repetition::REQUIRED)
        .with_logical_type(Some(LogicalType::String))
        .build()?;
    let repeated = Type::group_type_builder("list")
        .with_repetition(Repetition::REPEATED)
        .with_fields(vec![Arc::new(element)])
        .build()?;
    Type::group_type_builder(name)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(Some(LogicalType::List))
        .with_fields(vec![Arc::new(repeated)])
        .build()
}

/// The values of a column that wait for their row group, with their levels.
struct Column {
    values: Values,
    /// 0 for null, 1 for a value or an empty list, 2 for a list's element.
    definitions: Vec<i16>,
    /// Of a list: 0 for the first element of a row, 1 for the others.
    repetitions: Vec<i16>,
}

enum Values {
    Bool(Vec<bool>),
    Int(Vec<i64>),
    Text(Vec<ByteArray>),
    List(Vec<ByteArray>),
}

impl Column {
    fn new(field: Field) -> Self {
        Self {
            values: match field.field_type() {
                FieldType::Bool => Values::Bool(Vec::new()),
                FieldType::Int | FieldType::Time => Values::Int(Vec::new()),
                FieldType::Text => Values::Text(Vec::new()),
                FieldType::Texts => Values::List(Vec::new()),
            },
            definitions: Vec::new(),
            repetitions: Vec::new(),
        }
    }

    /// Adds a row's value; returns how many bytes of memory it takes.
    fn push(&mut self, value: Option<FieldValue<'_>>) -> usize {
        let bytes = |text: &str| ByteArray::from(text.as_bytes().to_vec());
        let mut taken = 16;
        let level = match (&mut self.values, value) {
            (_, None) => 0,
            (Values::Bool(values), Some(FieldValue::Bool(value))) => {
                values.push(value);
                1
            }
            (Values::Int(values), Some(FieldValue::Int(value) | FieldValue::Time(value))) => {
                values.push(value);
                1
            }
            (Values::Text(values), Some(FieldValue::Text(text))) => {
                taken += text.len() + size_of::<ByteArray>();
                values.push(bytes(&text));
                1
            }
            (Values::List(values), Some(FieldValue::Texts(texts))) if !texts.is_empty() => {
                for (index, text) in texts.iter().enumerate() {
                    taken += text.len() + size_of::<ByteArray>();
                    values.push(bytes(text));
                    self.definitions.push(2);
                    self.repetitions.push(i16::from(index > 0));
                }
                return taken;
            }
            (Values::List(_), Some(FieldValue::Texts(_))) => 1,
            (Values::Bool(_) | Values::Int(_) | Values::Text(_) | Values::List(_), Some(_)) => {
                unreachable!("a field's values have its type")
            }
        };
        self.definitions.push(level);
        self.repetitions.push(0);
        taken
    }

    fn write(&mut self, writer: &mut SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        let levels = Some(self.definitions.as_slice());
        match &mut self.values {
            Values::Bool(values) => {
                writer
                    .typed::<BoolType>()
                    .write_batch(values, levels, None)?;
                values.clear();
            }
            Values::Int(values) => {
                writer
                    .typed::<Int64Type>()
                    .write_batch(values, levels, None)?;
                values.clear();
            }
            Values::Text(values) => {
                writer
                    .typed::<ByteArrayType>()
                    .write_batch(values, levels, None)?;
                values.clear();
            }
            Values::List(values) => {
                let repetitions = Some(self.repetitions.as_slice());
                writer
                    .typed::<ByteArrayType>()
                    .write_batch(values, levels, repetitions)?;
                values.clear();
            }
        }
        self.definitions.clear();
        self.repetitions.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use parquet::{
        file::reader::{FileReader as _, SerializedFileReader},
        record::{Field as Cell, RowAccessor as _},
    };

    use super::*;
    use crate::sample;

    #[test]
    fn rows_come_back_as_they_were_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.parquet");
        let mut writer = ParquetWriter::new(std::fs::File::create(&path).unwrap()).unwrap();
        for pid in 0..1000 {
            writer
                .write(&sample::exec("web-1", pid, 10, 1, &["sh", "-c", "ä b"]))
                .unwrap();
            writer.write(&sample::exit("web-1", pid, 10, 3)).unwrap();
            if pid == 500 {
                writer.flush().unwrap();
            }
        }
        writer.finish("2000 events · complete").unwrap();
        let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
        let metadata = reader.metadata();
        assert_eq!(metadata.num_row_groups(), 2);
        assert_eq!(metadata.file_metadata().num_rows(), 2000);
        let pairs = metadata.file_metadata().key_value_metadata().unwrap();
        assert_eq!(pairs[0].value.as_deref(), Some("2000 events · complete"));
        let column = |name: &str| Field::NAMES.iter().position(|it| *it == name).unwrap();
        for (index, row) in reader.get_row_iter(None).unwrap().enumerate() {
            let row = row.unwrap();
            let pid = i64::try_from(index / 2).unwrap();
            assert_eq!(row.get_long(column("pid")).unwrap(), pid);
            assert_eq!(row.get_string(column("exe")).unwrap(), "/bin/sh");
            let argv = row.get_column_iter().nth(column("argv")).unwrap().1;
            if index % 2 == 0 {
                let Cell::ListInternal(argv) = argv else {
                    panic!("{argv:?} is no list")
                };
                assert_eq!(argv.elements()[2], Cell::Str("ä b".to_owned()));
                assert!(row.get_long(column("exit_code")).is_err(), "it is null");
            } else {
                assert_eq!(*argv, Cell::Null);
                assert_eq!(row.get_long(column("exit_code")).unwrap(), 3);
            }
        }
    }

    #[test]
    fn file_without_events_is_whole() {
        let mut bytes = Vec::new();
        let writer = ParquetWriter::new(&mut bytes).unwrap();
        writer.finish("0 events").unwrap();
        assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
    }
}
