//! The first job: 64 tiles of a fractal, assembled to one picture.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use anyhow::{Context as _, bail};
use wc_types::Bytes;
use wc_types::manifest::Output;

use super::CLASS;
use crate::client::Node;
use crate::manifest::{Draft, Source, StageDraft};

/// The guest; `guests/README.md` says what it expects.
const MODULE: &[u8] = include_bytes!("../../../../../../guests/built/fractal.wasm");
/// Side of the picture, in pixels.
const SIZE: usize = 2048;
/// Tiles in a row, and in a column.
const TILES: usize = 8;
/// Side of a tile, in pixels.
const TILE: usize = SIZE / TILES;
/// Bytes of a pixel: red, green, blue.
const PIXEL_BYTES: usize = 3;
/// Bytes of a tile.
const TILE_BYTES: usize = TILE * TILE * PIXEL_BYTES;
/// The file that a tile is in.
const OUTPUT: &str = "tile.rgb";

/// Returns the job.
pub fn draft() -> Draft {
    let mut stage = StageDraft::new("tiles", Source::Bytes(MODULE.to_vec()));
    stage.tasks = (TILES * TILES) as u32;
    stage.command = vec!["--size".to_owned(), SIZE.to_string()];
    stage.outputs = vec![Output { name: OUTPUT.to_owned(), bytes_max: Bytes(TILE_BYTES as u64) }];
    stage.resources.memory = Bytes(16 << 20);
    let mut draft = Draft::single("fractal", stage);
    draft.class = CLASS;
    draft
}

/// Fetches the tiles and writes the picture.
pub async fn assemble(node: &mut Node, job: &str, path: &Path) -> anyhow::Result<()> {
    let mut image = vec![0; SIZE * SIZE * PIXEL_BYTES];
    let mut placed = 0;
    let mut from = Some(0);
    while let Some(first) = from {
        let (rows, next) = node.results(job, Some(0), first).await?;
        for row in rows {
            let blob =
                row.record.outputs.get(OUTPUT).with_context(|| format!("tile {} is missing", row.index))?;
            let tile = node.read(blob.cid).await?;
            place(&mut image, row.index as usize, &tile)?;
            placed += 1;
        }
        from = next;
    }
    if placed != TILES * TILES {
        bail!("{placed} of {} tiles came back", TILES * TILES);
    }
    write(path, &image).with_context(|| format!("could not write {}", path.display()))
}

fn place(image: &mut [u8], index: usize, tile: &[u8]) -> anyhow::Result<()> {
    if tile.len() != TILE_BYTES || index >= TILES * TILES {
        bail!("tile {index} has {} bytes, not {TILE_BYTES}", tile.len());
    }
    let (column, row) = (index % TILES, index / TILES);
    for (line, pixels) in tile.chunks_exact(TILE * PIXEL_BYTES).enumerate() {
        let start = ((row * TILE + line) * SIZE + column * TILE) * PIXEL_BYTES;
        image[start..start + pixels.len()].copy_from_slice(pixels);
    }
    Ok(())
}

fn write(path: &Path, image: &[u8]) -> anyhow::Result<()> {
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), SIZE as u32, SIZE as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(image)?;
    Ok(writer.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_land_row_by_row_from_the_top_left() {
        let mut image = vec![0; SIZE * SIZE * PIXEL_BYTES];
        place(&mut image, TILES + 2, &vec![7; TILE_BYTES]).expect("places");
        let pixel = |x: usize, y: usize| image[(y * SIZE + x) * PIXEL_BYTES];
        assert_eq!((pixel(2 * TILE, TILE), pixel(3 * TILE - 1, 2 * TILE - 1)), (7, 7));
        assert_eq!((pixel(2 * TILE - 1, TILE), pixel(2 * TILE, TILE - 1), pixel(3 * TILE, TILE)), (0, 0, 0));
        assert_eq!(image.iter().filter(|byte| **byte == 7).count(), TILE_BYTES);
        assert!(
            place(&mut image, 0, &[1, 2, 3]).is_err() && place(&mut image, 64, &vec![0; TILE_BYTES]).is_err()
        );
    }

    #[test]
    fn the_job_is_sound() {
        assert_eq!(crate::manifest::check(&draft(), "fractal"), []);
    }
}
