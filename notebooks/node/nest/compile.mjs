// A compiler that is asked again and again. What it reads of packages it reads once.
//
// In, a line each:  {"folder": …, "files": [names], "options": {…}}
// Out, a line each: [{"code", "file", "line", "message"}]; the JavaScript is written to folder/dist,
//                   also where there are errors.

import { createInterface } from 'node:readline';
import { dirname, relative } from 'node:path';
import ts from 'typescript';

// A folder without "type": "module", as the starter of Nest's command line had it in 2023.
const OPTIONS = {
  module: ts.ModuleKind.NodeNext,
  target: ts.ScriptTarget.ES2022,
  experimentalDecorators: true,
  emitDecoratorMetadata: true,
  skipLibCheck: true,
};

const library = dirname(ts.getDefaultLibFilePath({}));
const read = new Map();

function hostFor(options) {
  const host = ts.createCompilerHost(options);
  const { getSourceFile } = host;
  host.getSourceFile = (name, ...rest) => {
    if (!name.includes('/node_modules/') && !name.startsWith(library)) return getSourceFile(name, ...rest);
    if (!read.has(name)) read.set(name, getSourceFile(name, ...rest));
    return read.get(name);
  };
  return host;
}

function compile({ folder, files, options }) {
  const all = { ...OPTIONS, ...options, rootDir: folder, outDir: `${folder}/dist`, types: [] };
  const program = ts.createProgram(files.map(name => `${folder}/${name}`), all, hostFor(all));
  const found = ts.getPreEmitDiagnostics(program);
  program.emit();
  return found.map(({ code, file, start, messageText }) => ({
    code,
    file: file ? relative(folder, file.fileName) : '',
    line: file ? file.getLineAndCharacterOfPosition(start).line + 1 : 0,
    message: ts.flattenDiagnosticMessageText(messageText, '\n').split('\n')[0],
  }));
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(compile(JSON.parse(line))));
}
