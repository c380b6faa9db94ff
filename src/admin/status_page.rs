//! `/`: the state of the node as a page for browsers. Its files are in the program and take nothing from elsewhere; its script
//! reads `/readyz`, `/metrics` and the lists.

use http_body_util::Full;
use hyper::{
    Response,
    body::Bytes,
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS,
    },
};

use super::Answer;

/// Names that others chose are on the page: what they might smuggle in is not run, and goes nowhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the page, if one is there.
pub(super) fn file(path: &str) -> Option<Answer> {
    let (content_type, content) = match path {
        "/" => ("text/html; charset=utf-8", include_str!("status_page/page.html")),
        "/page.css" => ("text/css; charset=utf-8", include_str!("status_page/page.css")),
        "/page.js" => ("text/javascript; charset=utf-8", include_str!("status_page/page.js")),
        "/words.js" => ("text/javascript; charset=utf-8", include_str!("status_page/words.js")),
        _ => return None,
    };
    let mut answer = Response::new(Full::new(Bytes::from_static(content.as_bytes())));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Some(answer)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    const SCRIPT: &str = include_str!("status_page/page.js");
    const WORDS: &str = include_str!("status_page/words.js");
    const PAGE: &str = include_str!("status_page/page.html");
    const STYLE: &str = include_str!("status_page/page.css");

    /// The words of one language, in a block of its own.
    fn words(language: &str) -> BTreeSet<&'static str> {
        let (_, block) = WORDS.split_once(&format!("\n  {language}: {{\n")).expect("a block of the language");
        let (block, _) = block.split_once("\n  },").expect("its end");
        // Texts have no quotes: every second piece lies between two.
        let outside = block.split('"').step_by(2);
        let names = outside.filter_map(|piece| piece.trim_start_matches([',', ' ', '\n']).strip_suffix(": "));
        names.collect()
    }

    /// What follows a text up to a quote, everywhere.
    fn after<'a>(text: &'a str, before: &str) -> BTreeSet<&'a str> {
        let found = text.split(before).skip(1).filter_map(|rest| rest.split_once('"'));
        found.map(|(word, _)| word).filter(|word| word.chars().all(char::is_alphanumeric)).collect()
    }

    #[test]
    fn the_page_has_the_same_words_in_english_and_chinese_and_all_that_it_uses() {
        let english = words("en");
        assert!(english.len() > 60, "{english:?}");
        assert_eq!(english, words("zh"));
        let used: BTreeSet<&str> =
            [after(SCRIPT, "say(\""), after(SCRIPT, "word: \""), after(PAGE, "data-word=\"")]
                .into_iter()
                .flatten()
                .collect();
        assert!(used.len() > 40, "{used:?}");
        assert_eq!(used.difference(&english).collect::<Vec<_>>(), Vec::<&&str>::new());
    }

    #[test]
    fn the_page_takes_nothing_from_elsewhere_and_makes_no_markup_of_what_it_is_told() {
        for file in [SCRIPT, WORDS, PAGE, STYLE] {
            let addresses = file.matches("://").count();
            assert_eq!(addresses, file.matches("\"http://www.w3.org/2000/svg\"").count());
            for sink in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "style=\""]
            {
                assert!(!file.contains(sink), "{sink}");
            }
        }
    }
}
