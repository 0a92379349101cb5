//! Large letters of half blocks, three rows high. Pure.

/// Rows of the terminal that a large text takes.
pub(crate) const ROWS: usize = 3;

/// Five rows of pixels for each character; a row ends with `/`.
const GLYPHS: [(char, &str); 44] = [
    ('A', ".##./#..#/####/#..#/#..#"),
    ('B', "###./#..#/###./#..#/###."),
    ('C', ".###/#.../#.../#.../.###"),
    ('D', "###./#..#/#..#/#..#/###."),
    ('E', "####/#.../###./#.../####"),
    ('F', "####/#.../###./#.../#..."),
    ('G', ".###/#.../#.##/#..#/.###"),
    ('H', "#..#/#..#/####/#..#/#..#"),
    ('I', "###/.#./.#./.#./###"),
    ('J', "..##/...#/...#/#..#/.##."),
    ('K', "#..#/#.#./##../#.#./#..#"),
    ('L', "#.../#.../#.../#.../####"),
    ('M', "#...#/##.##/#.#.#/#...#/#...#"),
    ('N', "#..#/##.#/#.##/#..#/#..#"),
    ('O', ".##./#..#/#..#/#..#/.##."),
    ('P', "###./#..#/###./#.../#..."),
    ('Q', ".##./#..#/#..#/#.##/.###"),
    ('R', "###./#..#/###./#.#./#..#"),
    ('S', ".###/#.../.##./...#/###."),
    ('T', "#####/..#../..#../..#../..#.."),
    ('U', "#..#/#..#/#..#/#..#/.##."),
    ('V', "#...#/#...#/.#.#./.#.#./..#.."),
    ('W', "#...#/#...#/#.#.#/##.##/#...#"),
    ('X', "#..#/#..#/.##./#..#/#..#"),
    ('Y', "#...#/.#.#./..#../..#../..#.."),
    ('Z', "####/...#/.##./#.../####"),
    ('0', ".##./#..#/#..#/#..#/.##."),
    ('1', ".#./##./.#./.#./###"),
    ('2', "###./...#/.##./#.../####"),
    ('3', "###./...#/.##./...#/###."),
    ('4', "#..#/#..#/####/...#/...#"),
    ('5', "####/#.../###./...#/###."),
    ('6', ".##./#.../###./#..#/.##."),
    ('7', "####/...#/..#./.#../.#.."),
    ('8', ".##./#..#/.##./#..#/.##."),
    ('9', ".##./#..#/.###/...#/.##."),
    (' ', "../../../../.."),
    ('-', ".../.../###/.../..."),
    ('_', "..../..../..../..../####"),
    ('.', "././././#"),
    (',', "../../../.#/#."),
    ('/', "...#/..#./..#./.#../#..."),
    ('%', "#..#/..#./.##./.#../#..#"),
    ('+', ".../.#./###/.#./..."),
];

/// Returns a text as large letters; `None` if a character has no large form, or the text is wider than `columns`.
pub(crate) fn large(text: &str, columns: usize) -> Option<[String; ROWS]> {
    let mut rows: [String; ROWS] = Default::default();
    for c in text.chars() {
        let wanted = c.to_uppercase().next()?;
        let (_, glyph) = GLYPHS.iter().find(|(known, _)| *known == wanted)?;
        let pixels: Vec<&[u8]> = glyph.split('/').map(str::as_bytes).collect();
        let wide = pixels.iter().map(|row| row.len()).max().unwrap_or(0);
        let is_set = |row: usize, column: usize| pixels.get(row).and_then(|row| row.get(column)) == Some(&b'#');
        for (row, line) in rows.iter_mut().enumerate() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.extend((0..wide).map(|column| match (is_set(2 * row, column), is_set(2 * row + 1, column)) {
                (true, true) => '█',
                (true, false) => '▀',
                (false, true) => '▄',
                (false, false) => ' ',
            }));
        }
    }
    let fits = !text.is_empty() && rows.iter().all(|row| row.chars().count() <= columns);
    fits.then_some(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_drawn_or_refused() {
        assert_eq!(large("Ti", 80).unwrap(), ["▀▀█▀▀ ▀█▀", "  █    █ ", "  ▀   ▀▀▀"]);
        assert_eq!(large("TRAP", 10), None, "too wide");
        assert_eq!(large("Ä", 80), None, "no such letter");
        assert_eq!(large("", 80), None);
        for (c, glyph) in GLYPHS {
            let rows: Vec<&str> = glyph.split('/').collect();
            assert!(rows.len() == 5 && rows.iter().all(|row| row.len() == rows[0].len()), "{c}");
        }
    }
}
