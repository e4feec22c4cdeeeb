// An S3 on loopback with one bucket: `node server.js FOLDER BUCKET` prints its port. Key and secret are S3RVER.
const S3rver = require("@20minutes/s3rver");
const [directory, name] = process.argv.slice(2);
new S3rver({ address: "127.0.0.1", port: 0, directory, silent: true, configureBuckets: [{ name }] })
  .run()
  .then(({ port }) => console.log(port));
