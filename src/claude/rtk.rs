//! rtk, the filter that cuts oversized tool output: two small Node programs, carried in the agent's command line.

use k8s_openapi::ByteString;

/// Runs as a Claude Code hook: reads the event from stdin as JSON and writes it to stdout with the tool output cut.
///
/// `trunc` cuts at `MAX` bytes, earlier where that would split a character: bytes `10xxxxxx` continue one.
/// The text from `function trunc` up to `const tr=` must be self-contained, because the suite of 0.1.49 evaluates it on
/// its own.
const FILTER: &str = concat!(
    "const MAX=@MAX@;",
    "function trunc(s){",
    "if(typeof s!=='string')return s;",
    "const bytes=Buffer.from(s,'utf8');",
    "if(bytes.length<=MAX)return s;",
    "let cut=MAX;",
    "while(cut>0&&(bytes[cut]&192)===128)cut--;",
    "return bytes.toString('utf8',0,cut)+'\\n[...'+(bytes.length-cut)+' bytes truncated by paperclip-rtk]';",
    "}",
    "const tr=e=>{",
    "const r=e&&(e.tool_response||e.tool_result);",
    "if(!r)return e;",
    "if(typeof r.content==='string')r.content=trunc(r.content);",
    "else if(Array.isArray(r.content))r.content=r.content.map(b=>",
    "b&&typeof b==='object'&&typeof b.text==='string'?{...b,text:trunc(b.text)}:b);",
    "return e;",
    "};",
    "const seen=[];",
    "process.stdin.on('data',d=>seen.push(d)).on('end',()=>{",
    "const raw=Buffer.concat(seen);",
    "let e;",
    "try{e=JSON.parse(raw.toString('utf8'))}catch{process.stdout.write(raw);return}",
    "process.stdout.write(JSON.stringify(tr(e)));",
    "});",
);

/// Registers the filter in Claude Code's settings and keeps everything else in them.
///
/// The file is on the volume that all runs share: it is written only when it changes, under another name, and renamed,
/// so that another run never reads half of it. A link is resolved first, because renaming would replace it.
const SETTINGS: &str = concat!(
    "const fs=require('fs'),dir=process.env.CLAUDE_CONFIG_DIR||process.env.HOME+'/.claude';",
    "let file=dir+'/settings.json',old='',s={};",
    "try{file=fs.realpathSync(file);old=fs.readFileSync(file,'utf8');s=JSON.parse(old)}catch{}",
    "const plain=v=>v&&typeof v==='object'&&!Array.isArray(v)?v:{};",
    "s=plain(s);",
    "s.hooks=plain(s.hooks);",
    "s.hooks.PostToolUse=[{matcher:'.*',hooks:[{type:'command',command:'node /tmp/.rtk-filter.js'}]}];",
    "const text=JSON.stringify(s);",
    "if(text!==old){",
    "fs.mkdirSync(dir,{recursive:true});",
    "const fresh=file+'.'+require('crypto').randomUUID();",
    "fs.writeFileSync(fresh,text);",
    "fs.renameSync(fresh,file);",
    "}",
);

/// The shell commands that install the filter; they run before the CLI. They write `/tmp/.rtk-filter.js` and register
/// it in `settings.json` of the CLI's folder of settings. The filter cuts tool output of more than `max_output_bytes` UTF-8 bytes.
///
/// Both programs are encoded in Base64, so the shell's quoting cannot change them. They need only `node`.
pub fn rtk_setup_commands(max_output_bytes: u64) -> String {
    let filter = base64(&FILTER.replace("@MAX@", &max_output_bytes.to_string()));
    let settings = base64(SETTINGS);
    format!(
        "node -e \"require('fs').writeFileSync('/tmp/.rtk-filter.js',Buffer.from('{filter}','base64').toString('utf-8'))\" \
         && node -e \"eval(Buffer.from('{settings}','base64').toString('utf-8'))\""
    )
}

/// Standard Base64 with padding: the JSON form of Kubernetes' byte strings.
fn base64(text: &str) -> String {
    match serde_json::to_value(ByteString(text.as_bytes().to_vec())) {
        Ok(serde_json::Value::String(encoded)) => encoded,
        other => unreachable!("a byte string is a JSON string: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The programs in a command, decoded.
    fn payloads(command: &str) -> Vec<String> {
        let pieces = command.split("Buffer.from('").skip(1);
        let encoded = pieces.map(|piece| piece.split_once("','base64')").unwrap().0);
        let decoded = encoded.map(|text| serde_json::from_value::<ByteString>(text.into()).unwrap());
        decoded.map(|bytes| String::from_utf8(bytes.0).unwrap()).collect()
    }

    #[test]
    fn commands_have_the_form_of_the_contract() {
        let command = rtk_setup_commands(50_000);
        let (first, second) = command.split_once(" && ").unwrap();
        assert!(
            first.starts_with("node -e \"require('fs').writeFileSync('/tmp/.rtk-filter.js',Buffer.from('")
        );
        assert!(first.ends_with("','base64').toString('utf-8'))\""));
        assert!(second.starts_with("node -e \"eval(Buffer.from('"));
        assert!(second.ends_with("','base64').toString('utf-8'))\""));
        for half in [first, second] {
            assert_eq!(half.matches('"').count(), 2, "{half}");
            assert!(!half.contains(['$', '`', '\\', '!', '\n']), "{half}");
        }
        assert_eq!(payloads(&command).len(), 2);
    }

    #[test]
    fn filter_has_the_parts_of_the_contract() {
        for max in [1000, 50_000] {
            let filter = &payloads(&rtk_setup_commands(max))[0];
            assert!(filter.contains(&format!("MAX={max};")), "{filter}");
            for part in
                ["truncated by paperclip-rtk", "tool_response", "tool_result", "Array.isArray", "b.text"]
            {
                assert!(filter.contains(part), "{part}");
            }
            assert!(!filter.contains(['\n', '"']));
            let (_, from_trunc) = filter.split_once("function trunc(s){").unwrap();
            let (body, _) = from_trunc.split_once("const tr=").unwrap();
            assert!(body.ends_with('}'), "{body}");
            assert_eq!(filter.matches("const tr=").count(), 1);
        }
    }

    #[test]
    fn settings_have_the_parts_of_the_contract() {
        let settings = &payloads(&rtk_setup_commands(1))[1];
        for part in ["PostToolUse", "settings.json", "'.*'", "node /tmp/.rtk-filter.js", "recursive:true"] {
            assert!(settings.contains(part), "{part}");
        }
        assert!(!settings.contains('"'));
    }

    #[test]
    fn programs_neither_download_nor_install() {
        let command = rtk_setup_commands(50_000);
        for text in std::iter::once(command.clone()).chain(payloads(&command)) {
            for tool in ["curl", "wget", "apt", "yum", "pip", "gem", "cargo", "go get"] {
                assert!(!text.contains(tool), "{tool} in {text}");
            }
        }
    }
}
